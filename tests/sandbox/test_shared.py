"""Shared tables: what the kernel counts for the whole machine, or for a user in all namespaces, is not a session's to use up."""

from __future__ import annotations

import ctypes
import os

import pytest

from sandbox import Pool, Session

pytestmark = pytest.mark.asyncio(loop_scope="session")

CALL = """
import ctypes, errno
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    result = libc.syscall(ctypes.c_long(number), *arguments)
    return 'allowed' if result >= 0 else errno.errorcode[ctypes.get_errno()]
"""
FILL_AIO = (
    CALL + "for size in (60_000, 5000, 500, 50, 1):\n    while call(206, size, ctypes.byref(ctypes.c_ulong())) == 'allowed': pass"
)
FILL_INOTIFY = CALL + "for _ in range(250): call(294, 0)"
FILL_TIMERS = CALL + "made = 0\nwhile libc.timer_create(1, None, ctypes.byref(ctypes.c_void_p())) == 0: made += 1\nmade"


async def test_it_cannot_use_up_the_machine_s_asynchronous_io(session: Session) -> None:
    await session.run(FILL_AIO)
    context = ctypes.c_ulong()
    assert ctypes.CDLL(None).syscall(206, 100, ctypes.byref(context)) == 0
    ctypes.CDLL(None).syscall(207, context)


async def test_it_cannot_use_up_the_host_user_s_inotify_instances(session: Session) -> None:
    await session.run(FILL_INOTIFY)
    fd = ctypes.CDLL(None).inotify_init()
    assert fd >= 0
    os.close(fd)


async def test_it_cannot_use_up_other_sessions_timers(pool: Pool, session: Session) -> None:
    assert int((await session.run(FILL_TIMERS)).stdout) < 10_000
    async with pool.session() as other:
        assert (await other.run(CALL + "call(222, 1, None, ctypes.byref(ctypes.c_void_p()))")).stdout == "'allowed'\n"


async def test_it_cannot_watch_what_other_sessions_open(session: Session) -> None:
    code = CALL + "call(294, 0), call(254, 0, b'/opt/python/lib/python3.12', 0xfff), call(300, 0, 0)"
    assert (await session.run(code)).stdout == "('EPERM', 'EPERM', 'EPERM')\n"


@pytest.mark.parametrize("number", [206, 207, 208, 209, 210, 333])
async def test_asynchronous_io_is_denied(session: Session, number: int) -> None:
    assert (await session.run(CALL + f"call({number}, 0, 0, 0, 0)")).stdout == "'EPERM'\n"


async def test_pending_signals_are_limited(session: Session) -> None:
    code = """
import os, signal
signal.pthread_sigmask(signal.SIG_BLOCK, [40])
import ctypes
libc, made = ctypes.CDLL(None), 0
while libc.sigqueue(os.getpid(), 40, 0) == 0: made += 1
made < 10_000"""
    assert (await session.run(code)).stdout == "True\n"


async def test_no_descriptor_can_be_put_in_flight(session: Session) -> None:
    """The kernel counts those under way for each user: a session that kept some hundred there would stop all others."""
    code = "import socket\nours, _ = socket.socketpair()\nsocket.send_fds(ours, [b'x'], [0])"
    assert "PermissionError" in (await session.run(code)).stderr


async def test_many_pipes_do_not_stop_another_session_s_output(pool: Pool, session: Session) -> None:
    code = """
import os, time
for _ in range(20):
    if os.fork() == 0:
        pipes = [os.pipe() for _ in range(120)]
        time.sleep(60)
time.sleep(0.2)"""
    await session.run(code)
    async with pool.session() as other:
        assert (await other.run("print('x' * 15_000)")).stdout == "x" * 15_000 + "\n"


@pytest.mark.parametrize("kind", ["SCHED_FIFO", "SCHED_RR"])
async def test_it_cannot_become_a_real_time_process(session: Session, kind: str) -> None:
    assert "PermissionError" in (await session.run(f"import os; os.sched_setscheduler(0, os.{kind}, os.sched_param(1))")).stderr


async def test_it_has_no_right_to_priority_even_if_the_host_has(session: Session) -> None:
    code = "import resource as r; r.getrlimit(r.RLIMIT_RTPRIO), r.getrlimit(13)"
    assert (await session.run(code)).stdout == "((0, 0), (0, 0))\n"


async def test_it_cannot_raise_its_niceness(session: Session) -> None:
    assert "PermissionError" in (await session.run("import os; os.nice(-5)")).stderr


async def test_it_cannot_have_real_time_disk_priority(session: Session) -> None:
    assert (await session.run(CALL + "call(251, 1, 0, 1 << 13)")).stdout == "'EPERM'\n"


async def test_it_cannot_lock_much_memory(session: Session) -> None:
    code = (
        CALL + "import mmap; block = mmap.mmap(-1, 1 << 24); call(149, ctypes.addressof(ctypes.c_char.from_buffer(block)), 1 << 24)"
    )
    assert (await session.run(code)).stdout in ("'ENOMEM'\n", "'EAGAIN'\n")


async def test_it_cannot_make_posix_message_queues(session: Session) -> None:
    assert (await session.run(CALL + "call(240, b'queue', 0o102, 0o600, 0)")).stdout == "'EMFILE'\n"


async def test_shared_memory_left_behind_is_not_charged_to_the_next_session(pool: Pool, session: Session) -> None:
    share = """
import ctypes
libc = ctypes.CDLL(None)
libc.shmat.restype = ctypes.c_void_p
address = libc.shmat(libc.shmget(0, 150 << 20, 0o1600), None, 0)
ctypes.memset(address, 1, 150 << 20) == address"""
    for _ in range(4):
        async with pool.session() as other:
            assert (await other.run(share)).stdout == "True\n"
    assert (await session.run(share)).stdout == "True\n"
