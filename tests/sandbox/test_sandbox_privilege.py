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
}


@pytest.mark.parametrize("attempt", SYSTEM_CALLS.values(), ids=SYSTEM_CALLS)
async def test_the_system_call_is_denied(session: Session, attempt: str) -> None:
    result = await session.run(CALL + attempt)
    assert result.stdout == "'EPERM'\n", result.stderr


async def test_clone3_is_not_there(session: Session) -> None:
    assert (await session.run(CALL + "call(435, ctypes.create_string_buffer(88), 88)")).stdout == "'ENOSYS'\n"


async def test_calls_by_their_x32_numbers_kill(session: Session) -> None:
    result = await session.run(CALL + "call(0x40000000 + 39)")
    assert result.status is Status.KILLED
    assert "SIGSYS" in result.stderr


async def test_every_set_of_capabilities_is_empty(session: Session) -> None:
    code = "{line.split()[1] for line in open('/proc/self/status') if line.startswith('Cap')}"
    assert (await session.run(code)).stdout == "{'0000000000000000'}\n"


async def test_no_new_privileges_is_set_and_a_filter_is_active(session: Session) -> None:
    code = "[line.split()[1] for line in open('/proc/self/status') if line.startswith(('NoNewPrivs', 'Seccomp:'))]"
    assert (await session.run(code)).stdout == "['1', '2']\n"


async def test_it_cannot_become_root(session: Session) -> None:
    assert "OSError" in (await session.run("import os; os.setuid(0)")).stderr


async def test_its_user_map_cannot_be_changed(session: Session) -> None:
    assert "PermissionError" in (await session.run("open('/proc/self/uid_map', 'wb', 0).write(b'0 0 1')")).stderr


async def test_a_device_cannot_be_made(session: Session) -> None:
    assert "PermissionError" in (await session.run("import os; os.mknod('/tmp/mem', 0o20666, os.makedev(1, 1))")).stderr


async def test_a_file_it_wrote_cannot_be_executed(session: Session) -> None:
    code = "import os; open('/tmp/x', 'w').write('#!/opt/python/bin/python3'); os.chmod('/tmp/x', 0o4755); os.execl('/tmp/x', 'x')"
    assert "PermissionError" in (await session.run(code)).stderr


async def test_hard_limits_cannot_be_raised(session: Session) -> None:
    code = "import resource as r; r.setrlimit(r.RLIMIT_NPROC, (10000, 10000))"
    assert (await session.run(code)).status is Status.EXCEPTION


@pytest.mark.parametrize("signal", ["SIGKILL", "SIGTERM", "SIGSTOP", "SIGSEGV"])
async def test_the_init_cannot_be_signalled(session: Session, signal: str) -> None:
    await session.run(f"import os, signal\ntry: os.kill(1, signal.{signal})\nexcept OSError: pass")
    assert (await session.run("'alive'")).stdout == "'alive'\n"
