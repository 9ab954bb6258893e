"""What there is on the host because of a pool: counted before and after, nothing may be left and nothing may grow."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest
from sandbox_host import descendants, own_cgroups

from sandbox import rootfs
from sandbox.host import nsjail

KINDS = ("nsjail", "zygote", "slot", "init", "interpreter")
_NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")


def kind_of(pid: int) -> str:
    """One of KINDS, or "other", told from the command and from the process's numbers in the PID namespaces that it is in."""
    try:
        with open(f"/proc/{pid}/status") as status:  # no Path, as in `descendants`
            lines = dict(line.split(":\t", 1) for line in status if ":\t" in line)
    except (FileNotFoundError, ProcessLookupError):
        return "other"
    inner = [int(number) for number in lines["NSpid"].split()[1:]]
    if lines["State"].startswith("Z"):
        return "other"
    if not inner:
        return "nsjail" if lines["Name"].strip() == "nsjail" else "other"
    if len(inner) == 1:
        return "zygote" if inner == [1] else "slot"
    return {1: "init", 2: "interpreter"}.get(inner[1], "other")


def jailed(roots_not_ours: set[int]) -> dict[str, list[int]]:
    """The processes by kind below this process, without those below `roots_not_ours` (the nsjails of other pools)."""
    pids = descendants()
    for root in roots_not_ours:
        pids -= {root} | descendants(root)
    found: dict[str, list[int]] = {kind: [] for kind in KINDS}
    for pid in sorted(pids):
        if (kind := kind_of(pid)) in found:
            found[kind].append(pid)
    return found


def resident_bytes(pid: int | str = "self") -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def own_resident_bytes() -> int:
    """Of this process, once what is free has been given back."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return resident_bytes()


@dataclass(frozen=True)
class Census:
    """Everything that must be the same before a pool and after it."""

    processes: frozenset[int]
    zombies: frozenset[int]
    cgroups: frozenset[Path]
    mounts: int
    files: frozenset[str]
    descriptors: Counter[str]
    namespaces: frozenset[str]

    def beyond(self, before: Census) -> dict[str, Any]:
        """What is here and was not `before`, by kind; empty when nothing is."""
        found: dict[str, Any] = {}
        for field in fields(self):
            now, then = getattr(self, field.name), getattr(before, field.name)
            if isinstance(now, int):
                found[field.name] = max(0, now - then)
            else:
                found[field.name] = sorted(map(str, now - then))
        return {name: what for name, what in found.items() if what}


def census() -> Census:
    living = descendants()
    return Census(
        frozenset(living),
        frozenset(zombies()),
        frozenset(path for top in own_cgroups() for path in (top, *top.glob("*/"))),
        len(Path("/proc/self/mountinfo").read_text().splitlines()),
        frozenset(_files()),
        _own_descriptors(),
        frozenset(namespaces(living | {os.getpid()})),
    )


def _own_descriptors() -> Counter[str]:
    """How many this process has of each kind: of a file its path, else like "socket" or "anon_inode:[eventpoll]"."""
    found: Counter[str] = Counter()
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the one that lists them
            target = os.readlink(f"/proc/self/fd/{number}")
            found[re.sub(r":\[\d+\]$", "", target)] += 1
    return found


def namespaces(pids: set[int]) -> set[str]:
    """The kernel's names for the namespaces that these processes are in."""
    found = set()
    for pid in pids:
        for name in _NAMESPACES:
            try:
                found.add(os.readlink(f"/proc/{pid}/ns/{name}"))
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue
    return found


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def settled[T](look: Callable[[], T], wanted: T, patience_s: float = 5.0) -> T:
    """What `look` sees once it is `wanted`, or when patience ends: the kernel clears up a moment after a last process has ended."""
    deadline = time.monotonic() + patience_s
    while (seen := look()) != wanted and time.monotonic() < deadline:
        time.sleep(0.05)
    return seen


def zombies() -> set[int]:
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = stat.read_text().rsplit(")", 1)[1].split()[:2]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if state == "Z" and int(parent) == os.getpid():
            found.add(int(stat.parent.name))
    return found


def _files() -> set[str]:
    """Files that a pool could have made: all in the home of the jail's environment and in this process's own temporary directory.

    In the directories that everybody shares only those of the jail's user, who owns nothing else, and nsjail's own.
    """
    uid = nsjail.outside_ids()[0]
    found = {str(path) for path in (*rootfs.home().glob("*"), *Path(tempfile.gettempdir()).glob("**/*"))}
    for place in ("/tmp", "/var/tmp", "/dev/shm", "/run"):
        for path in Path(place).glob("*"):
            try:
                if path.lstat().st_uid == uid != os.geteuid() or path.name.startswith(f"nsjail.{os.geteuid()}."):
                    found |= {str(path), *(str(below) for below in path.glob("*"))}
            except OSError:
                continue
    return found


def report(capsys: pytest.CaptureFixture[str], title: str, **figures: Any) -> None:
    """Prints the figures of a run past pytest's capture: `make soak` is run for them."""
    with capsys.disabled():
        print(f"\n{title}")
        for name, figure in figures.items():
            print(f"  {name.replace('_', ' ')}: {figure}")
