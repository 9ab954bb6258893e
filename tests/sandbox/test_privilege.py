"""Privilege: what code in a session can do to the kernel. Each attempt must fail, and the session must live on."""

from __future__ import annotations

import pytest

from sandbox import Session, Status

pytestmark = pytest.mark.asyncio(loop_scope="session")

CALL = """
import ctypes, errno
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
def call(number, *arguments):
    result = libc.syscall(ctypes.c_long(number), *[ctypes.c_long(a) if isinstance(a, int) else a for a in arguments])
    return 'allowed' if result >= 0 else errno.errorcode[ctypes.get_errno()]
"""

# Arguments with which each call succeeds, or fails with another error, where it is not denied.
SYSTEM_CALLS = {
    "ptrace traceme": "call(101, 0, 0, 0, 0)",
    "process_vm_readv": "call(310, 1, 0, 0, 0, 0, 0)",
    "keyctl get session keyring": "call(250, 0, -3, 1)",
    "add_key": "call(248, b'user', b'k', b'v', 1, -4)",
    "request_key": "call(249, b'user', b'k', 0, -4)",
    "bpf": "call(321, 0, 0, 0)",
    "io_uring_setup": "call(425, 1, ctypes.create_string_buffer(256))",
    "io_uring_enter": "call(426, 0, 0, 0, 0, 0)",
    "perf_event_open": "call(298, ctypes.create_string_buffer(256), 0, -1, -1, 0)",
    "userfaultfd": "call(323, 1)",
    "mount": "call(165, b'none', b'/tmp', b'tmpfs', 0, b'')",
    "umount of /proc": "call(166, b'/proc', 2)",
    "bind mount": "call(165, b'/opt', b'/tmp', b'', 4096, b'')",
    "remount writable": "call(165, b'none', b'/', b'', 32, b'')",
    "fsopen": "call(430, b'tmpfs', 0)",
    "open_tree clone": "call(428, -100, b'/', 1)",
    "move_mount": "call(429, 0, b'', 0, b'', 0)",
    "mount_setattr": "call(442, -100, b'/', 0, ctypes.create_string_buffer(32), 32)",
    "pivot_root": "call(155, b'/', b'/')",
    "chroot": "call(161, b'/tmp')",
    "unshare user": "call(272, 0x10000000)",
    "unshare mount": "call(272, 0x20000)",
    "unshare net": "call(272, 0x40000000)",
    "setns": "call(308, 0, 0)",
    "clone into a user namespace": "call(56, 0x10000000 | 17, 0, 0, 0, 0)",
    "clone into a pid namespace": "call(56, 0x20000000 | 17, 0, 0, 0, 0)",
    "sethostname": "call(170, b'x', 1)",
    "settimeofday": "call(164, ctypes.create_string_buffer(16), 0)",
    "clock_settime": "call(227, 0, ctypes.create_string_buffer(16))",
    "adjtimex": "call(159, ctypes.create_string_buffer(256))",
    "init_module": "call(175, 0, 0, b'')",
    "finit_module": "call(313, 0, b'', 0)",
    "kexec_load": "call(246, 0, 0, 0, 0)",
    "reboot": "call(169, 0xfee1dead, 672274793, 0, 0)",
    "kernel log": "call(103, 3, ctypes.create_string_buffer(64), 64)",
    "open_by_handle_at": "call(304, -100, 0, 0)",
    "a filter of its own": "call(317, 1, 0, 0)",
    "pidfd_getfd": "call(438, 0, 0, 0)",
    "personality": "call(135, 0x0040000)",
    "iopl": "call(172, 3)",
    "ioperm": "call(173, 0, 1, 1)",
    "modify_ldt": "call(154, 0, 0, 0)",
    "ptrace attach to the init": "call(101, 16, 1, 0, 0)",
    "process_vm_writev": "call(311, 1, 0, 0, 0, 0, 0)",
    "kcmp": "call(312, 1, 1, 0, 0, 0)",
    "process_madvise": "call(440, 0, 0, 0, 0, 0)",
    "io_uring_register": "call(427, 0, 0, 0, 0)",
    "memfd_secret": "call(447, 0)",
    "fsmount": "call(432, 0, 0, 0)",
    "fsconfig": "call(431, 0, 0, 0, 0, 0)",
    "fspick": "call(433, -100, b'/', 0)",
    "statmount": "call(457, 0, 0, 0, 0)",
    "listmount": "call(458, 0, 0, 0, 0)",
    "name_to_handle_at": "call(303, -100, b'/', 0, 0, 0)",
    "fanotify_init": "call(300, 0, 0)",
    "swapon": "call(167, b'/tmp/x', 0)",
    "swapoff": "call(168, b'/tmp/x')",
    "acct": "call(163, b'/tmp/x')",
    "quotactl": "call(179, 0, 0, 0, 0)",
    "setdomainname": "call(171, b'x', 1)",
    "clock_adjtime": "call(305, 0, ctypes.create_string_buffer(256))",
    "delete_module": "call(176, b'x', 0)",
    "kexec_file_load": "call(320, 0, 0, 0, 0, 0)",
    "vhangup": "call(153)",
    "unshare time": "call(272, 0x80)",
    "unshare cgroup": "call(272, 0x2000000)",
    "move_pages": "call(279, 1, 0, 0, 0, 0, 0)",
    "migrate_pages": "call(256, 1, 0, 0, 0)",
}


@pytest.mark.parametrize("attempt", SYSTEM_CALLS.values(), ids=SYSTEM_CALLS)
async def test_the_system_call_is_denied(lasting_session: Session, attempt: str) -> None:
    result = await lasting_session.run(CALL + attempt)
    assert result.stdout == "'EPERM'\n", result.stderr


async def test_clone3_is_not_there(lasting_session: Session) -> None:
    assert (await lasting_session.run(CALL + "call(435, ctypes.create_string_buffer(88), 88)")).stdout == "'ENOSYS'\n"


async def test_calls_by_their_x32_numbers_kill(session: Session) -> None:
    result = await session.run(CALL + "call(0x40000000 + 39)")
    assert result.status is Status.KILLED
    assert "SIGSYS" in result.stderr


async def test_every_set_of_capabilities_is_empty(lasting_session: Session) -> None:
    code = "{line.split()[1] for line in open('/proc/self/status') if line.startswith('Cap')}"
    assert (await lasting_session.run(code)).stdout == "{'0000000000000000'}\n"


async def test_no_new_privileges_is_set_and_a_filter_is_active(lasting_session: Session) -> None:
    code = "[line.split()[1] for line in open('/proc/self/status') if line.startswith(('NoNewPrivs', 'Seccomp:'))]"
    assert (await lasting_session.run(code)).stdout == "['1', '2']\n"


async def test_it_cannot_become_root(lasting_session: Session) -> None:
    assert "OSError" in (await lasting_session.run("import os; os.setuid(0)")).stderr


# All files below /proc/self that any kernel lets a process write, with what would gain something: a longer life when memory ends,
# more of the processor, other ids, another clock, other names.
OWN_FILES = {
    "oom_score_adj": "-1000", "oom_adj": "-17", "autogroup": "-20", "timerslack_ns": "1", "comm": "init", "coredump_filter": "0x7f",
    "clear_refs": "1", "uid_map": "0 0 1", "gid_map": "0 0 1", "projid_map": "0 0 1", "setgroups": "allow", "loginuid": "0",
    "timens_offsets": "1 9 0", "sched": "0", "mem": "x", "make-it-fail": "1", "fail-nth": "1", "attr/current": "x",
    "attr/exec": "x",
    "attr/fscreate": "x", "attr/keycreate": "x", "attr/sockcreate": "x", "patch_state": "1", "seccomp_cache": "1",
}  # fmt: skip


@pytest.mark.parametrize("place", ["/proc/self", "/proc/thread-self", "/proc/{pid}/task/{pid}", "/proc/self/root/proc/self"])
async def test_no_file_about_itself_can_be_written(lasting_session: Session, place: str) -> None:
    code = f"""
import os
written = []
for name, text in {OWN_FILES!r}.items():
    path = {place!r}.format(pid=os.getpid()) + '/' + name
    for change in (lambda: open(path, 'wb', 0).write(text.encode()), lambda: os.chmod(path, 0o666), lambda: os.truncate(path, 0)):
        try: change()
        except OSError: continue
        written.append(name)
written, int(open('/proc/self/oom_score_adj').read())"""
    assert (await lasting_session.run(code)).stdout == "([], 1000)\n"


async def test_no_child_of_its_is_spared_when_memory_runs_out(session: Session) -> None:
    code = """
import subprocess, sys
read = "print(open('/proc/self/oom_score_adj').read(), end='')"
subprocess.run([sys.executable, '-c', read], capture_output=True, text=True).stdout"""
    assert (await session.run(code)).stdout == "'1000\\n'\n"


async def test_its_proc_cannot_be_made_writable(lasting_session: Session) -> None:
    code = "call(165, b'none', b'/proc', b'', 32, b''), call(165, b'proc', b'/tmp', b'proc', 0, b''), call(166, b'/proc', 0)"
    assert (await lasting_session.run(CALL + code)).stdout == "('EPERM', 'EPERM', 'EPERM')\n"


# Calls that give a process more of a processor or a disk than others get.
OUTRUN = {
    "nice": "call(141, 0, 0, -5)",
    "real time": "call(144, 0, 1, (1).to_bytes(4, 'little'))",
    "round robin": "call(144, 0, 2, (1).to_bytes(4, 'little'))",
    "a deadline, or a longer slice": "call(314, 0, ctypes.create_string_buffer(56), 0)",
    "first at the disk": "call(251, 1, 0, 4 << 13 >> 2)",
    "real time at the disk": "call(251, 1, 0, 1 << 13)",
    "exact timers": "call(157, 29, 1, 0, 0, 0)",
    "a core of its own": "call(157, 62, 1, 0, 0, 0)",
    "more processes": "call(160, 6, bytes([255]) * 16)",
    "higher nice": "call(160, 13, (40).to_bytes(8, 'little') * 2)",
    "higher priority": "call(160, 14, (99).to_bytes(8, 'little') * 2)",
    "more memory": "call(160, 2, bytes([255]) * 16)",
    "more locked memory": "call(160, 8, bytes([255]) * 16)",
}


@pytest.mark.parametrize("attempt", OUTRUN.values(), ids=OUTRUN)
async def test_it_cannot_outrun_others(lasting_session: Session, attempt: str) -> None:
    assert (await lasting_session.run(CALL + attempt)).stdout in ("'EPERM'\n", "'EACCES'\n")


async def test_a_device_cannot_be_made(lasting_session: Session) -> None:
    assert "PermissionError" in (await lasting_session.run("import os; os.mknod('/tmp/mem', 0o20666, os.makedev(1, 1))")).stderr


async def test_a_file_it_wrote_cannot_be_executed(session: Session) -> None:
    code = "import os; open('/tmp/x', 'w').write('#!/opt/python/bin/python3'); os.chmod('/tmp/x', 0o4755); os.execl('/tmp/x', 'x')"
    assert "PermissionError" in (await session.run(code)).stderr


async def test_hard_limits_cannot_be_raised(session: Session) -> None:
    code = "import resource as r; r.setrlimit(r.RLIMIT_NPROC, (10000, 10000))"
    assert (await session.run(code)).status is Status.EXCEPTION


async def test_no_signal_reaches_the_init(session: Session) -> None:
    code = """
import os, time
x = 'alive'
for number in range(1, 65):
    try: os.kill(1, number)
    except OSError: pass
time.sleep(0.05)"""
    assert (await session.run(code)).status is Status.OK
    assert (await session.run("x")).stdout == "'alive'\n"


async def test_a_flood_of_signals_does_not_keep_the_init_from_its_work(session: Session) -> None:
    result = await session.run("import os, signal\nwhile True: os.kill(1, signal.SIGCHLD)", timeout_s=0.3)
    assert result.status is Status.TIMEOUT
    assert " after 0.3 s; variables are " in result.stderr


async def test_a_signal_through_a_pidfd_does_not_reach_the_init(session: Session) -> None:
    code = "import os, signal\nx = 'alive'\nfor number in (2, 9, 15): signal.pidfd_send_signal(os.pidfd_open(1), number)"
    await session.run(code)
    assert (await session.run("x")).stdout == "'alive'\n"


async def test_calls_by_their_i386_numbers_kill(session: Session) -> None:
    code = """
import ctypes, mmap
machine_code = mmap.mmap(-1, 4096, prot=7)
machine_code.write(bytes.fromhex('b814000000cd80c3'))  # getpid by int 0x80
ctypes.CFUNCTYPE(ctypes.c_long)(ctypes.addressof(ctypes.c_char.from_buffer(machine_code)))()"""
    result = await session.run(code)
    assert result.status is Status.KILLED
    assert "SIGSYS" in result.stderr or "SIGSEGV" in result.stderr, "SIGSEGV where the kernel has no such entry at all"


async def test_another_filter_only_takes_more_away(session: Session) -> None:
    code = """
import struct
rules = struct.pack('<HBBI', 0x06, 0, 0, 0x7FFF0000)  # allow everything
buffer = ctypes.create_string_buffer(rules, 8)
installed = libc.prctl(22, 2, struct.pack('<HxxxxxxQ', 1, ctypes.addressof(buffer)), 0, 0)
installed, call(272, 0x10000000)"""
    assert (await session.run(CALL + code)).stdout == "(0, 'EPERM')\n"


async def test_a_filter_that_forbids_everything_only_ends_the_session(session: Session) -> None:
    code = """
import struct
rules = struct.pack('<HBBI', 0x06, 0, 0, 0x00050001)
buffer = ctypes.create_string_buffer(rules, 8)
libc.prctl(22, 2, struct.pack('<HxxxxxxQ', 1, ctypes.addressof(buffer)), 0, 0)"""
    assert (await session.run(CALL + code, timeout_s=0.5)).status in (Status.TIMEOUT, Status.KILLED)
    assert (await session.run("1")).stdout == "1\n"


@pytest.mark.parametrize("flag", range(25, 31))
@pytest.mark.parametrize("also", [17, 0x11 | 1 << 15], ids=["", "as a sibling"])
async def test_no_namespace_can_be_cloned(session: Session, flag: int, also: int) -> None:
    assert (await session.run(CALL + f"call(56, {1 << flag | also}, 0, 0, 0, 0)")).stdout == "'EPERM'\n"


async def test_clone_flags_cannot_hide_in_the_upper_half(session: Session) -> None:
    assert (await session.run(CALL + "call(56, 0x10000000 | 17 | 1 << 40, 0, 0, 0, 0)")).stdout == "'EPERM'\n"


async def test_a_socket_family_cannot_hide_in_the_upper_half(session: Session) -> None:
    assert (await session.run(CALL + "call(41, 16 | 1 << 40, 3, 0)")).stdout == "'EAFNOSUPPORT'\n"


@pytest.mark.parametrize("path", ["/proc/self/mem", "/proc/1/mem", "/proc/self/task/1/mem"])
async def test_the_init_s_memory_cannot_be_reached(session: Session, path: str) -> None:
    code = f"x = 'alive'\ntry: open({path!r}, 'r+b', 0).write(b'?')\nexcept OSError as error: pass"
    await session.run(code)
    assert (await session.run("x")).stdout == "'alive'\n"


async def test_a_new_program_has_no_more_rights(session: Session) -> None:
    code = """
import os
program = "import os; print([line.split()[1] for line in open('/proc/self/status') if line[:6] in ('CapEff', 'CapBnd', 'NoNewP')])"
python = '/opt/python/bin/python3.12'
if os.fork() == 0: os.execv(python, [python, '-I', '-S', '-c', program + '; os.unshare(os.CLONE_NEWUSER)'])
child = os.wait()"""
    result = await session.run(code)
    assert result.stdout == f"['{'0' * 16}', '{'0' * 16}', '1']\n"
    assert "PermissionError" in result.stderr


async def test_a_program_from_memory_has_no_more_rights(session: Session) -> None:
    # A file in memory can be executed although nothing in the session's directories can; like any code, in the same jail.
    code = """
import os
fd = os.memfd_create('script', 0)
size = os.write(fd, b'#!/opt/python/bin/python3.12 -IS\\nimport os\\nos.unshare(os.CLONE_NEWUSER)')
if os.fork() == 0: os.execv(f'/proc/self/fd/{fd}', ['script'])
child = os.wait()"""
    assert "PermissionError" in (await session.run(code)).stderr


async def test_changing_its_own_process_gains_nothing(session: Session) -> None:
    # Reaper of orphans, unpinned from its parent's death, not dumpable, in a process group of its own.
    code = "call(157, 36, 1, 0, 0, 0), call(157, 1, 0, 0, 0, 0), call(157, 4, 0, 0, 0, 0), call(109, 0, 0), call(272, 0x10000000)"
    assert (await session.run(CALL + code)).stdout.endswith("'EPERM')\n")
    assert (await session.run("1")).stdout == "1\n"
