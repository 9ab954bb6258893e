"""The confinement of one session, set up from inside the outer jail: namespaces, mounts, capabilities, limits, system calls.

Runs in the jail; standard library only. Every function raises OSError if a protection cannot be set up: a session without it never
starts. The outer jail must allow unshare and mount, since the zygote builds sessions with them; a session must not. So each
session finally installs a narrower filter on itself. Filters can be added but never removed.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import signal
import struct

_libc = ctypes.CDLL(None, use_errno=True)
_libc_with_gil = ctypes.PyDLL(None, use_errno=True)  # a child must start with the lock that its parent held

_INNER_ID = 1000
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_BIND, _MS_REC, _MS_PRIVATE = 1, 2, 4, 8, 4096, 16384, 1 << 18
_MNT_DETACH = 2
_PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT = 4, 22, 24, 38, 47
_SYS_CAPSET = 126
_MAX_OPEN_FILES = 256
_MAX_INODES = 16384
_MAX_PENDING_SIGNALS = 1024

_NAMESPACES = (
    os.CLONE_NEWUSER | os.CLONE_NEWNS | os.CLONE_NEWPID | os.CLONE_NEWIPC | os.CLONE_NEWUTS | os.CLONE_NEWNET | os.CLONE_NEWCGROUP
)

# x86-64 numbers of system calls that no session needs and that reach deep into the kernel.
_DENIED = {
    "ptrace": 101, "syslog": 103, "personality": 135, "uselib": 134, "ustat": 136, "vhangup": 153, "modify_ldt": 154,
    "pivot_root": 155, "adjtimex": 159, "chroot": 161, "acct": 163, "settimeofday": 164, "mount": 165, "umount2": 166,
    "swapon": 167, "swapoff": 168, "reboot": 169, "sethostname": 170, "setdomainname": 171, "iopl": 172,
    "ioperm": 173, "init_module": 175, "delete_module": 176, "quotactl": 179, "lookup_dcookie": 212,
    "clock_settime": 227, "kexec_load": 246, "add_key": 248, "request_key": 249, "keyctl": 250, "migrate_pages": 256,
    "unshare": 272, "move_pages": 279, "perf_event_open": 298, "fanotify_init": 300, "name_to_handle_at": 303,
    "open_by_handle_at": 304, "clock_adjtime": 305, "setns": 308, "process_vm_readv": 310, "process_vm_writev": 311,
    "kcmp": 312, "finit_module": 313, "seccomp": 317, "kexec_file_load": 320, "bpf": 321, "userfaultfd": 323,
    "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "open_tree": 428, "move_mount": 429,
    "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433, "pidfd_getfd": 438, "process_madvise": 440,
    "mount_setattr": 442, "quotactl_fd": 443, "memfd_secret": 447, "cachestat": 451, "statmount": 457,
    "listmount": 458, "lsm_get_self_attr": 459, "lsm_set_self_attr": 460, "open_tree_attr": 467,
    # Their tables are shared by the whole machine, or by all namespaces of a user: one session could fill them for all others.
    # An inotify watch would also reveal which of the shared files other sessions open.
    "io_setup": 206, "io_destroy": 207, "io_getevents": 208, "io_submit": 209, "io_cancel": 210, "io_pgetevents": 333,
    "inotify_init": 253, "inotify_add_watch": 254, "inotify_init1": 294,
    # Descriptors in transit in messages are also counted per user. Sockets send with sendto.
    "sendmsg": 46, "sendmmsg": 307,
    # With them a process gets more of a shared processor or disk than others without any privilege.
    "ioprio_set": 251, "sched_setattr": 314,
}  # fmt: skip
_SYS_SOCKET, _SYS_SOCKETPAIR, _SYS_CLONE, _SYS_PRCTL, _SYS_CLONE3 = 41, 53, 56, 157, 435
_PR_SET_TIMERSLACK, _PR_SCHED_CORE = 29, 62  # wake-ups that are more exact than others'; a core that nobody else may use
_FAMILIES = (1, 2, 10)  # unix, inet, inet6: harmless in an empty network namespace, and libraries expect to be able to make one
_CLONE_NAMESPACE_FLAGS = 0x7E020000


def _check(result: int, what: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


def _mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    _check(_libc.mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), options.encode()), f"mount {target}")


def fork_into_namespaces() -> int:
    """Like os.fork, but the child is PID 1 of fresh user, mount, PID, IPC, UTS, network and cgroup namespaces.

    One clone instead of unshare and a second fork: a fork of a process this size costs more than a millisecond. The calls around
    the clone are the ones that os.fork makes. The caller must be single-threaded.
    """
    ctypes.pythonapi.PyOS_BeforeFork()
    pid = _libc_with_gil.syscall(_SYS_CLONE, _NAMESPACES | signal.SIGCHLD, 0, 0, 0, 0)
    if pid == 0:
        ctypes.pythonapi.PyOS_AfterFork_Child()
    else:
        ctypes.pythonapi.PyOS_AfterFork_Parent()
        _check(min(pid, 0), "clone")
    return pid


def map_identity(outer_uid: int, outer_gid: int) -> None:
    """Maps the one user and the one group of the new user namespace to those of its parent."""
    for name, content in (
        ("setgroups", "deny"),
        ("uid_map", f"{_INNER_ID} {outer_uid} 1"),
        ("gid_map", f"{_INNER_ID} {outer_gid} 1"),
    ):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(content)


class MemoryPriority:
    """What the kernel ends first if memory runs out: a session before the rest of the machine, its code before its init.

    Made before the session's /proc is mounted, which is read-only: `code_first` writes through the file that was opened here.
    """

    def __init__(self) -> None:
        """Sets this process, and those that it will fork, to be ended first."""
        self._fd = os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
        os.write(self._fd, b"1000")

    def code_first(self) -> None:
        """Called by the init once it has forked the interpreter: sets the init alone to be ended after it."""
        os.pwrite(self._fd, b"500", 0)
        os.close(self._fd)


def mount_private_files(disk_bytes: int) -> None:
    """Mounts the session's only writable directories (/work, /tmp, /dev/shm), in one tmpfs of `disk_bytes`, and its own /proc."""
    _mount("none", "/", "", _MS_REC | _MS_PRIVATE)
    flags = _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
    _mount("tmpfs", "/mnt", "tmpfs", flags, f"size={disk_bytes},nr_inodes={_MAX_INODES},mode=755")
    for name, target in (("work", "/work"), ("tmp", "/tmp"), ("shm", "/dev/shm")):
        os.mkdir(f"/mnt/{name}", 0o700)
        _mount(f"/mnt/{name}", target, "", _MS_BIND)
    _check(_libc.umount2(b"/mnt", _MNT_DETACH), "umount /mnt")
    # Only the session's own processes, without the init, and nothing about the machine. Read-only: a process may otherwise write to
    # its oom_score_adj (and so survive the end of a node's memory), autogroup, timerslack_ns, coredump_filter and their like.
    _mount("proc", "/proc", "proc", flags | _MS_RDONLY, "subset=pid,hidepid=ptraceable")
    os.chdir("/work")


def drop_privileges() -> None:
    """Drops every capability, in all five sets, for good."""
    _libc.prctl(_PR_CAP_AMBIENT, 4, 0, 0, 0)
    for capability in range(64):
        if _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) != 0:
            break  # past the last capability that this kernel knows
    header = struct.pack("<II", 0x20080522, 0)
    _check(_libc.syscall(_SYS_CAPSET, header, bytes(24)), "capset")
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")


def set_inspectable(inspectable: bool) -> None:
    """Sets whether processes of the same user may inspect this one. The init must not be: it holds the supervision channel."""
    _check(_libc.prctl(_PR_SET_DUMPABLE, int(inspectable), 0, 0, 0), "dumpable")


def limit_resources(memory_bytes: int, pids: int, disk_bytes: int) -> None:
    """Sets per-process limits below the cgroup's: a large allocation raises MemoryError, which ends the run, not the session."""
    for kind, value in (
        (resource.RLIMIT_DATA, memory_bytes + _inherited_data_bytes()),
        (resource.RLIMIT_NPROC, pids),
        (resource.RLIMIT_FSIZE, disk_bytes),
        (resource.RLIMIT_NOFILE, _MAX_OPEN_FILES),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 64 << 10),
        (resource.RLIMIT_MSGQUEUE, 0),
        (resource.RLIMIT_RTPRIO, 0),  # otherwise the host's own rights to priority would be inherited
        (resource.RLIMIT_NICE, 0),
        (resource.RLIMIT_SIGPENDING, _MAX_PENDING_SIGNALS),  # timers too; otherwise one session could use up its user's
    ):
        resource.setrlimit(kind, (value, value))


def _inherited_data_bytes() -> int:
    """The data of the imports before the fork: the limit counts it, but the session shares it and has not allocated it."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[5]) * resource.getpagesize()


def filter_system_calls() -> None:
    """Installs the session's filter. Afterwards, denied calls fail with EPERM; a foreign architecture's calls kill the process."""
    program = _filter_program()
    buffer = ctypes.create_string_buffer(program, len(program))
    fprog = struct.pack("<HxxxxxxQ", len(program) // 8, ctypes.addressof(buffer))
    _check(_libc.prctl(_PR_SET_SECCOMP, 2, fprog, 0, 0), "seccomp")


def _filter_program() -> bytes:
    """Classic BPF over struct seccomp_data: number at offset 0, architecture at 4, low half of the first argument at 16."""
    load, jump_equal, jump_at_least, jump_any_bit, give = 0x20, 0x15, 0x35, 0x45, 0x06
    allow, kill, deny = 0x7FFF0000, 0x80000000, 0x00050000

    def step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
        return struct.pack("<HBBI", code, if_true, if_false, value)

    def fail(number: int, error: int) -> bytes:
        return step(jump_equal, number, 0, 1) + step(give, deny | error)

    families = b"".join(step(jump_equal, family, 0, 1) + step(give, allow) for family in _FAMILIES)
    by_family = step(load, 16) + families + step(give, deny | errno.EAFNOSUPPORT)
    denied_options = b"".join(
        step(jump_equal, option, 0, 1) + step(give, deny | errno.EPERM) for option in (_PR_SET_TIMERSLACK, _PR_SCHED_CORE)
    )
    by_option = step(load, 16) + denied_options + step(give, allow)
    by_flags = (
        step(load, 16) + step(jump_any_bit, _CLONE_NAMESPACE_FLAGS, 1, 0) + step(give, allow) + step(give, deny | errno.EPERM)
    )
    return b"".join(
        [
            step(load, 4) + step(jump_equal, 0xC000003E, 1, 0) + step(give, kill),  # x86-64 only
            step(load, 0) + step(jump_at_least, 0x40000000, 0, 1) + step(give, kill),  # the x32 numbers of the same calls
            step(jump_equal, _SYS_CLONE, 0, len(by_flags) // 8) + by_flags,
            step(jump_equal, _SYS_PRCTL, 0, len(by_option) // 8) + by_option,
            step(jump_equal, _SYS_SOCKET, 0, len(by_family) // 8) + by_family,
            step(jump_equal, _SYS_SOCKETPAIR, 0, len(by_family) // 8) + by_family,
            fail(_SYS_CLONE3, errno.ENOSYS),  # its flags are in memory, which a filter cannot read; libc then falls back to clone
            *(fail(number, errno.EPERM) for number in sorted(_DENIED.values())),
            step(give, allow),
        ]
    )
