"""Limits: each holds, is named in the result, and affects no other session."""

from __future__ import annotations

import asyncio

import pytest
from sandbox_host import LIMITS, descendants

from sandbox import Limits, Pool, Session, Status

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_an_infinite_loop_is_stopped_and_the_state_is_kept(session: Session) -> None:
    await session.run("x = 7")
    result = await session.run("while True: pass", timeout_s=0.3)
    assert result.status is Status.TIMEOUT
    assert "stopped after 0.3 s" in result.stderr
    assert (await session.run("x")).stdout == "7\n"


async def test_text_printed_before_a_timeout_is_kept(session: Session) -> None:
    result = await session.run("import time; print('before', end=''); time.sleep(60)", timeout_s=0.3)
    assert (result.status, result.stdout) == (Status.TIMEOUT, "before")


async def test_code_that_swallows_the_interrupt_is_killed(session: Session) -> None:
    code = "import time\nprint('before', end='')\nwhile True:\n    try: time.sleep(60)\n    except BaseException: pass"
    result = await session.run(code, timeout_s=0.3)
    assert (result.status, result.stdout) == (Status.TIMEOUT, "before")
    assert "killed after 0.3 s; variables are lost" in result.stderr


async def test_code_that_ignores_every_signal_is_killed(session: Session) -> None:
    code = """
import signal, time
for number in range(1, 65):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
time.sleep(60)"""
    assert (await session.run(code, timeout_s=0.3)).status is Status.TIMEOUT


async def test_a_long_call_in_c_is_killed(session: Session) -> None:
    result = await session.run("sum(range(10 ** 12))", timeout_s=0.3)
    assert result.status is Status.TIMEOUT
    assert (await session.run("1")).status is Status.OK


async def test_a_process_that_stops_itself_is_timed_out(session: Session) -> None:
    result = await session.run("import os, signal; os.kill(os.getpid(), signal.SIGSTOP)", timeout_s=0.3)
    assert result.status is Status.TIMEOUT


async def test_an_interpreter_that_does_not_read_its_cell_is_timed_out(session: Session) -> None:
    stop = "os.kill(os.getppid(), signal.SIGSTOP)"
    await session.run(f"import os, signal, time\nif os.fork() == 0:\n    time.sleep(0.1)\n    {stop}\n    os._exit(0)")
    await asyncio.sleep(0.3)
    result = await session.run("#" * 2_000_000, timeout_s=0.3)
    assert result.status is Status.TIMEOUT
    assert "killed after 0.3 s" in result.stderr


async def test_a_deadline_before_the_first_cell_has_begun_shows_nothing_of_ours(session: Session) -> None:
    result = await session.run("#" * 9_000_000, timeout_s=0.001)
    assert result.status is Status.TIMEOUT
    assert "interpreter" not in result.stderr


async def test_a_longer_timeout_than_the_limit_is_not_granted() -> None:
    async with Pool(Limits(wall_s=0.3), size=1, preload=[]) as pool, pool.session() as session:
        assert "stopped after 0.3 s" in (await session.run("import time; time.sleep(600)", timeout_s=1200)).stderr


async def test_processor_time_is_limited_over_all_processes() -> None:
    async with Pool(Limits(wall_s=30, cpu_s=0.5), size=1, preload=[]) as pool, pool.session() as session:
        result = await session.run("import os\nfor _ in range(4): os.fork()\nwhile True: pass")
        assert result.status is Status.TIMEOUT
        assert "0.5 s of processor time" in result.stderr


async def test_a_large_allocation_fails_and_the_state_is_kept(session: Session) -> None:
    await session.run("x = 7")
    result = await session.run(f"bytearray({LIMITS.memory_bytes * 2})")
    assert result.status is Status.MEMORY
    assert (await session.run("x")).stdout == "7\n"


async def test_memory_that_slips_past_the_process_limit_is_killed(session: Session) -> None:
    code = "import mmap\nblocks = []\nwhile True:\n    blocks.append(mmap.mmap(-1, 1 << 24))\n    blocks[-1].write(bytes(1 << 24))"
    result = await session.run(code)
    assert result.status is Status.MEMORY
    assert "MiB of memory" in result.stderr


async def test_memory_of_a_tree_of_processes_is_limited(session: Session) -> None:
    code = """
import os, time
children = []
for _ in range(8):
    pid = os.fork()
    if pid == 0:
        block = bytearray(100 << 20)
        for i in range(0, len(block), 4096): block[i] = 1
        time.sleep(0.5)
        os._exit(0)
    children.append(pid)
[os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]"""
    result = await session.run(code)
    assert result.status is Status.MEMORY or "-9" in result.stdout, result


TAKE = {
    "files in memory": "import os\nfds = [os.memfd_create('x') for _ in range(60)]\nfor fd in fds: os.write(fd, bytes(15 << 20))",
    "shared memory segments": """
import ctypes
libc = ctypes.CDLL(None)
libc.shmat.restype = ctypes.c_void_p
for _ in range(12): ctypes.memset(libc.shmat(libc.shmget(0, 50 << 20, 0o1600), None, 0), 1, 50 << 20)""",
    "a shared mapping": "import mmap\nblock = mmap.mmap(-1, 600 << 20)\nfor n in range(0, 600 << 20, 4096): block[n] = 1",
    "disk, segments and mappings together": """
import ctypes, mmap
open('/tmp/file', 'wb').write(bytes(15 << 20))
libc = ctypes.CDLL(None)
libc.shmat.restype = ctypes.c_void_p
ctypes.memset(libc.shmat(libc.shmget(0, 200 << 20, 0o1600), None, 0), 1, 200 << 20)
blocks = [mmap.mmap(-1, 100 << 20) for _ in range(3)]
for block in blocks: block.write(bytes(100 << 20))""",
}


@pytest.mark.parametrize("code", TAKE.values(), ids=TAKE)
async def test_memory_is_limited_however_it_is_taken(session: Session, code: str) -> None:
    assert (await session.run(code)).status is Status.MEMORY
    assert (await session.run("1")).stdout == "1\n"


@pytest.mark.parametrize(
    "take",
    [
        "socket.socketpair()", "os.pipe()", "os.eventfd(0)", "os.memfd_create('x')", "select.epoll()", "os.dup(0)",
        "os.pidfd_open(os.getpid())", "os.open('/work', os.O_RDONLY)", "libc.timerfd_create(1, 0)",
    ],
)  # fmt: skip
async def test_descriptors_of_every_kind_are_limited(session: Session, take: str) -> None:
    code = f"""
import ctypes, os, select, socket
libc, kept = ctypes.CDLL(None), []
try:
    for _ in range(1000):
        kept.append({take})
        if kept[-1] == -1: raise OSError(24, 'full')
except OSError as error: print(error.errno)"""
    assert (await session.run(code)).stdout == "24\n"


async def test_many_segments_of_shared_memory_left_behind_do_no_harm(pool: Pool, session: Session) -> None:
    await session.run("import ctypes\nlibc = ctypes.CDLL(None)\nfor _ in range(4000): libc.shmget(0, 1 << 30, 0o1600)")
    async with pool.session() as other:
        assert (await other.run("import ctypes; ctypes.CDLL(None).shmget(0, 4096, 0o1600) >= 0")).stdout == "True\n"


async def test_zombies_count_as_processes(session: Session) -> None:
    code = "import os\nfor made in range(200):\n    try:\n        if os.fork() == 0: os._exit(0)\n    except OSError: break\nmade"
    assert int((await session.run(code)).stdout) < LIMITS.pids


async def test_address_space_without_memory_is_harmless(session: Session) -> None:
    code = "import mmap\nblocks = [mmap.mmap(-1, 1 << 40, prot=0, flags=0x4022) for _ in range(20)]\nlen(blocks)"
    assert (await session.run(code)).status in (Status.OK, Status.EXCEPTION, Status.MEMORY)
    assert (await session.run("1")).stdout == "1\n"


async def test_a_timeout_below_zero_is_a_timeout(session: Session) -> None:
    assert (await session.run("while True: pass", timeout_s=-1)).status is Status.TIMEOUT
    assert (await session.run("1")).stdout == "1\n"


async def test_a_fork_bomb_is_contained(pool: Pool, session: Session) -> None:
    result = await session.run("import os\nwhile True:\n    try: os.fork()\n    except OSError: pass", timeout_s=0.5)
    assert result.status is Status.TIMEOUT
    assert len(descendants()) < LIMITS.pids * 2
    async with pool.session() as other:
        assert (await other.run("1")).status is Status.OK


async def test_the_number_of_processes_is_limited(session: Session) -> None:
    code = """
import os, time
made = 0
try:
    for _ in range(200):
        if os.fork() == 0: time.sleep(60)
        made += 1
except OSError as error: print(type(error).__name__)
made"""
    result = await session.run(code)
    assert result.stdout.startswith("BlockingIOError\n")
    assert int(result.stdout.split()[1]) < LIMITS.pids


async def test_threads_count_as_processes(session: Session) -> None:
    code = "import threading, time\nfor _ in range(200): threading.Thread(target=time.sleep, args=(60,), daemon=True).start()"
    result = await session.run(code)
    assert "can't start new thread" in result.stderr


@pytest.mark.parametrize("place", ["/work", "/tmp", "/dev/shm"])
async def test_the_disk_fills_up(session: Session, place: str) -> None:
    code = f"for n in range(100):\n    with open(f'{place}/{{n}}', 'wb', 0) as file: assert file.write(bytes(1 << 20)) == 1 << 20"
    result = await session.run(code)
    assert result.status is Status.EXCEPTION
    assert "No space left" in result.stderr or "AssertionError" in result.stderr


async def test_the_three_directories_share_one_limit(session: Session) -> None:
    code = """
import os
written = 0
for place in ('/work', '/tmp', '/dev/shm'):
    try:
        with open(f'{place}/full', 'wb', 0) as file:
            while True: written += file.write(bytes(1 << 16))
    except OSError: pass
written"""
    assert int((await session.run(code)).stdout) <= LIMITS.disk_bytes


async def test_the_number_of_files_is_limited(session: Session) -> None:
    result = await session.run("for n in range(100_000): open(f'/work/{n}', 'w').close()")
    assert "No space left" in result.stderr


async def test_open_files_are_limited(session: Session) -> None:
    result = await session.run("files = [open('/dev/null') for _ in range(5000)]")
    assert "Too many open files" in result.stderr


async def test_too_much_output_is_cut_and_said(session: Session) -> None:
    result = await session.run(f"print('x' * {LIMITS.output_bytes * 2}); done = True")
    assert result.status is Status.OUTPUT_LIMIT
    assert len(result.stdout) == LIMITS.output_bytes
    assert "output is limited" in result.stderr
    assert (await session.run("done")).stdout == "True\n", "the code ran to its end"


@pytest.mark.parametrize("stream", ["1", "2"])
async def test_an_output_flood_is_stopped(session: Session, stream: str) -> None:
    result = await session.run(f"import os\nwhile True: os.write({stream}, b'x' * 65536)")
    assert result.status is Status.OUTPUT_LIMIT
    assert len(result.stdout) + len(result.stderr) < LIMITS.output_bytes + 2000


async def test_a_traceback_outlives_a_flood_of_output(session: Session) -> None:
    result = await session.run(f"print('x' * {LIMITS.output_bytes * 2}); 1 / 0")
    assert result.status is Status.EXCEPTION
    assert "ZeroDivisionError" in result.stderr
    assert "output is limited" in result.stderr


async def test_a_huge_error_message_keeps_its_beginning_and_end(session: Session) -> None:
    result = await session.run("raise ValueError('begin' + 'x' * 10**6 + 'end')")
    assert "ValueError: begin" in result.stderr
    assert result.stderr.endswith("xend\n")


async def test_output_between_runs_is_not_kept(session: Session) -> None:
    code = """
import os, threading, time
def loop():
    time.sleep(0.1)
    os.write(1, b'noise')
threading.Thread(target=loop).start()"""
    await session.run(code)
    await asyncio.sleep(0.3)
    assert (await session.run("'mine'")).stdout == "'mine'\n"


async def test_a_deep_recursion_is_an_exception(session: Session) -> None:
    result = await session.run("def f(): f()\nf()")
    assert (result.status, result.stderr.splitlines()[-1].split(":")[0]) == (Status.EXCEPTION, "RecursionError")


async def test_a_stack_overflow_in_c_kills_only_the_session(session: Session) -> None:
    result = await session.run("import sys; sys.setrecursionlimit(10**9)\ndef f(): return sorted([1], key=lambda _: f())\nf()")
    assert result.status in (Status.KILLED, Status.EXCEPTION, Status.MEMORY)
    assert (await session.run("1")).status is Status.OK
