"""Leaks: after thousands of sessions there is as much of everything as after the first ones, and after the pool nothing."""

from __future__ import annotations

import asyncio
import gc
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from sandbox_census import census, descriptors, jailed, namespaces, own_resident_bytes, report, resident_bytes, settled
from sandbox_host import LIMITS, descendants

from sandbox import Pool, Status

pytestmark = pytest.mark.asyncio(loop_scope="session")

# (short, whole)
SESSIONS = (160, 2000)
CONCURRENT = (4, 8)
GROWTH = 0.05

CELLS = {
    "text": ("print('hello'); 6 * 7", Status.OK),
    "exception": ("1 / 0", Status.EXCEPTION),
    "files": ("for n in range(20): open(f'/tmp/{n}', 'wb').write(bytes(10_000))", Status.OK),
    "picture": ("from PIL import Image\nImage.new('RGB', (300, 200), 'red').show()", Status.OK),
    "daemon": ("import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(600)", Status.OK),
    "sockets": ("import socket\nkept = [socket.socketpair() for _ in range(20)]", Status.OK),
    "shared memory": ("import ctypes; ctypes.CDLL(None).shmget(0, 1 << 20, 0o1600) >= 0", Status.OK),
    "memory": ("block = bytearray(30 << 20)", Status.OK),
    "too much memory": (f"bytearray({LIMITS.memory_bytes * 2})", Status.MEMORY),
    "own death": ("import os; os.kill(os.getpid(), 9)", Status.KILLED),
    "noise": ("print('x' * 100_000)", Status.OUTPUT_LIMIT),
}


@pytest.fixture
def own_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    yield tmp_path


async def test_sessions_leave_nothing_and_nothing_grows(
    whole: bool, own_temporary_files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sessions, concurrent = SESSIONS[whole], CONCURRENT[whole]
    async with Pool(LIMITS, size=1, preload=[]):
        pass  # whatever is made once for a process, such as threads, is there now
    before = census()
    others = set(jailed(set())["nsjail"])
    started = time.monotonic()
    async with Pool(LIMITS, size=concurrent) as pool:
        tenth = sessions // 10
        await _use(pool, 0, tenth, concurrent)
        early = await asyncio.to_thread(settled_state, others, None)
        await _use(pool, tenth, sessions, concurrent)
        late = await asyncio.to_thread(settled_state, others, early)
    took_s = time.monotonic() - started

    after = await asyncio.to_thread(settled, census, before)
    growth = {name: late[name] / early[name] - 1 for name in early if name.endswith("_bytes")}
    report(
        capsys,
        f"{sessions} sessions, {concurrent} at a time, in {took_s:.0f} s",
        left_after_the_pool=after.beyond(before) or "nothing",
        **{name: f"{early[name]} at session {tenth}, {late[name]} at session {sessions}" for name in early},
        growth={name: f"{value:+.2%}" for name, value in growth.items()},
        namespaces_known_to_the_kernel=_slab_counts(),
    )
    assert after.beyond(before) == {}
    for name in early:
        if name in growth:
            assert growth[name] <= GROWTH, f"{name} grew"
        elif name == "own_descriptors":
            assert late[name] <= early[name], name  # an earlier test's may be closed meanwhile
        else:
            assert late[name] == early[name], name


async def _use(pool: Pool, first: int, last: int, concurrent: int) -> None:
    """Sessions number `first` to `last`, each with three of the cells in turn."""
    numbers = iter(range(first, last))
    kinds = list(CELLS.values())

    async def work() -> None:
        for number in numbers:
            images = [Image.new("RGB", (64, 64))] if number % 3 == 0 else []
            async with pool.session(images) as session:
                for cell in range(3):
                    code, status = kinds[(number + cell * 4) % len(kinds)]
                    result = await session.run(code)
                    assert result.status is status, (code, result)

    async with asyncio.TaskGroup() as group:
        for _ in range(concurrent):
            group.create_task(work())


def settled_state(others: set[int], wanted: dict[str, Any] | None) -> dict[str, Any]:
    """What the idle pool holds on to, on this side and in the jail. Waits until its counts are those of `wanted`."""

    def counts() -> dict[str, Any]:
        found = jailed(others)
        below = {pid for pids in found.values() for pid in pids}
        return {
            "processes": {kind: len(pids) for kind, pids in found.items()},
            "own_descriptors": descriptors(os.getpid()),
            "zygote_descriptors": [descriptors(pid) for pid in found["zygote"]],
            "slot_descriptors": sorted(descriptors(pid) for pid in found["slot"]),
            "cgroups": len(census().cgroups),
            "mounts": len(Path("/proc/self/mountinfo").read_text().splitlines()),
            "mounts_in_the_jail": [len(Path(f"/proc/{pid}/mountinfo").read_text().splitlines()) for pid in found["zygote"]],
            "namespaces": len(namespaces(below)),
            "children": len(descendants()),
        }

    gc.collect()  # what earlier tests in this process left behind must not close its descriptors between two looks
    seen = settled(counts, {name: wanted[name] for name in wanted if not name.endswith("_bytes")} if wanted else counts())
    found = jailed(others)
    seen["own_memory_bytes"] = own_resident_bytes()
    seen["zygote_memory_bytes"] = sum(map(resident_bytes, found["zygote"]))
    seen["slots_memory_bytes"] = sum(map(resident_bytes, found["slot"]))
    return seen


def _slab_counts() -> str:
    """Of the whole machine, so printed and not asserted: others may be at work."""
    try:
        rows = [line.split()[:2] for line in Path("/proc/slabinfo").read_text().splitlines()]
    except OSError:
        return "not readable"
    return ", ".join(f"{name} {count}" for name, count in rows if name in ("net_namespace", "pid_namespace", "mnt_cache", "pid_2"))
