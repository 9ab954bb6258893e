"""What the tests share: the limits of their pool, what the host has lying around, what the host sees of the jail."""

from __future__ import annotations

import os
from pathlib import Path

from sandbox import Limits

SECRET = "hunter2-of-the-host"
HIGH_FD = 700
LIMITS = Limits(
    wall_s=8,
    cpu_s=4,
    memory_bytes=400 << 20,
    pids=24,
    disk_bytes=16 << 20,
    output_bytes=20_000,
    images=4,
    image_side=512,
    image_pixels=200_000,
)


def descendants(root: int | None = None) -> set[int]:
    """The processes below `root`, by default below this one. Threads and zombies do not count."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, parent = (entry / "stat").read_text().rsplit(")", 1)[1].split()[:2]
            except (FileNotFoundError, ProcessLookupError):
                continue
            if state != "Z":
                parents[int(entry.name)] = int(parent)
    found: set[int] = set()
    frontier = {root or os.getpid()}
    while frontier:
        frontier = {pid for pid, parent in parents.items() if parent in frontier}
        found |= frontier
    return found


def own_cgroups() -> list[Path]:
    """The control groups that pools of this process have made and not removed."""
    return [
        path
        for depth in ("*", "*/*", "*/*/*", "*/*/*/*")
        for path in Path("/sys/fs/cgroup").glob(f"{depth}/toolwise-{os.getpid()}-*")
    ]
