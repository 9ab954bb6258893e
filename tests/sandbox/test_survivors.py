"""Survivors: when a session is closed nothing of it is alive, and when the pool is closed nothing of it is left."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
from pathlib import Path

import pytest
from sandbox_host import LIMITS, descendants, host_pid, own_cgroups

from sandbox import Pool, Status

pytestmark = pytest.mark.asyncio(loop_scope="session")

DAEMON = """
import os, signal, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
        time.sleep(600)
    os._exit(0)"""

LEFTOVERS = {
    "a double-forked daemon": DAEMON,
    "a child that ignores SIGTERM": "import os, signal, time\nsignal.signal(15, 1)\nif os.fork() == 0: time.sleep(600)",
    "a stopped child": "import os, signal\npid = os.fork()\nif pid == 0: os.kill(os.getpid(), signal.SIGSTOP)",
    "zombies": "import os\nfor _ in range(5):\n    if os.fork() == 0: os._exit(0)",
    "a busy thread": "import threading\ndef spin():\n    while True: pass\nthreading.Thread(target=spin, daemon=True).start()",
    "a child that takes a new process group": "import os, time\nif os.fork() == 0:\n    os.setpgid(0, 0)\n    time.sleep(600)",
    "a child that gets no signal from its parent's death": "import ctypes, os, time\nif os.fork() == 0:\n"
    "    ctypes.CDLL(None).prctl(1, 0)\n    time.sleep(600)",
    "a reaper of its own": "import ctypes, os, time\nctypes.CDLL(None).prctl(36, 1)\nif os.fork() == 0:\n"
    "    if os.fork() == 0: time.sleep(600)\n    os._exit(0)",
    "a sibling": "import ctypes, time\nif ctypes.CDLL(None).syscall(56, 0x8000 | 17, 0, 0, 0, 0) == 0: time.sleep(600)",
    "a child that stops its parent": "import os, time\nif os.fork() == 0:\n    os.kill(os.getppid(), 19)\n    time.sleep(600)",
    "a child of a thread": "import os, threading, time\ndef f():\n    if os.fork() == 0: time.sleep(600)\n"
    "t = threading.Thread(target=f); t.start(); t.join()",
    "a child that became another program": "import os\nif os.fork() == 0:\n    p = '/opt/python/bin/python3.12'\n"
    "    os.execv(p, [p, '-ISc', 'while True: pass'])",
    "a chain of children that each live an instant": "import os, time\nif os.fork() == 0:\n    os.setsid()\n    while True:\n"
    "        if os.fork(): os._exit(0)\n        time.sleep(0.001)",
    "a child of a killed parent": "import os, time\nif os.fork() == 0: time.sleep(600)\nos.kill(os.getpid(), 9)",
}


@pytest.mark.parametrize("code", LEFTOVERS.values(), ids=LEFTOVERS)
async def test_nothing_outlives_its_session(pool: Pool, code: str) -> None:
    async with pool.session() as session:
        await session.run("1")
    before = descendants()
    async with pool.session() as session:
        await session.run(code, timeout_s=1)
    assert descendants() - before == set()


async def test_killing_everything_in_reach_reaches_only_the_session(pool: Pool) -> None:
    async with pool.session() as other, pool.session() as session:
        await other.run("x = 1")
        await session.run("import os\nfor target in (-1, 0):\n    try: os.kill(target, 9)\n    except OSError: pass", timeout_s=2)
        assert (await other.run("x")).stdout == "1\n"
    assert (await _answer(pool)) is Status.OK


async def test_a_pool_leaves_no_process_cgroup_mount_or_descriptor() -> None:
    async def use(pool: Pool) -> None:
        async with pool.session() as session:
            await session.run("open('/work/file', 'w').write('x')")
            await session.run(DAEMON)

    def state() -> tuple[set[int], list[Path], str, int]:
        return descendants(), own_cgroups(), Path("/proc/self/mounts").read_text(), len(os.listdir("/proc/self/fd"))

    async with Pool(LIMITS, size=1, preload=[]):
        pass  # whatever is made once for a process, such as threads, is there now
    gc.collect()  # what earlier tests left open would be closed at any moment
    before = state()
    async with Pool(LIMITS, size=3, preload=[]) as pool:
        await asyncio.gather(*(use(pool) for _ in range(5)))
    *things, descriptors = state()
    assert things == list(before[:-1])
    assert descriptors <= before[-1]  # one that an earlier test left may have been closed meanwhile


async def test_a_pool_closed_by_an_error_leaves_nothing() -> None:
    before = descendants(), own_cgroups()
    with pytest.raises(ZeroDivisionError):
        async with Pool(LIMITS, size=1, preload=[]) as pool, pool.session() as session:
            await session.run(DAEMON)
            raise ZeroDivisionError
    assert (descendants(), own_cgroups()) == before


async def test_descriptors_do_not_grow_with_sessions(pool: Pool) -> None:
    await _answer(pool)
    descriptors = f"/proc/{host_pid(pool)}/fd"
    before = len(os.listdir(descriptors))
    for _ in range(10):
        await _answer(pool)
    for _ in range(50):  # the host closes a session's a moment after its last answer
        if len(os.listdir(descriptors)) == before:
            break
        await asyncio.sleep(0.1)
    assert len(os.listdir(descriptors)) == before


async def test_when_the_host_process_dies_the_jail_dies(tmp_path: Path) -> None:
    program = """
import asyncio, time
from sandbox import Limits, Pool
async def main():
    async with Pool(Limits(), size=1, preload=[], accept_reduced_isolation=True) as pool, pool.session() as session:
        await session.run('1')
        print('up', flush=True)
        await session.run('import time; time.sleep(9)')
asyncio.run(main())"""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).resolve().parents[2]
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"up\n"
    family = descendants(process.pid)
    assert len(family) >= 3
    process.send_signal(signal.SIGKILL)
    await process.wait()
    for _ in range(50):
        alive = {pid for pid in family if Path(f"/proc/{pid}").exists()}
        if not alive:
            break
        await asyncio.sleep(0.1)
    assert alive == set()


async def _answer(pool: Pool) -> Status:
    async with pool.session() as session:
        return (await session.run("1")).status
