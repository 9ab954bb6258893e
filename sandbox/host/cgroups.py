"""Control groups, v1 and v2: they limit the memory, the processes and the processor time of a whole tree of processes.

They are handled only from outside the jail, which never sees cgroupfs. Groups are made below this process's own group, so that a
container's limits hold for them too.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from sandbox.types import Limits

_PREFIX = "toolwise-"
_INIT_PIDS = 3  # the slot, the session's init, and one that is dead but not yet reaped
_NEEDED = ("memory", "pids")
_V1_WANTED = ("cpuacct",)


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """The directories in which groups can be made: one per v1 controller, or the single v2 directory under the name "unified"."""

    version: int
    parents: dict[str, Path]


class Group:
    """A group with `limits`, in all the hierarchy's controllers. Reused for one session after another."""

    def __init__(self, parents: dict[str, Path], name: str, limits: Limits) -> None:
        self._paths = {controller: parent / name for controller, parent in parents.items()}
        self._unified = "unified" in parents
        for path in self._paths.values():
            path.mkdir()
        self._cpu_file = -1
        pids = str(limits.pids + _INIT_PIDS)
        if unified := self._paths.get("unified"):
            (unified / "memory.max").write_text(str(limits.memory_bytes))
            _write_if_there(unified / "memory.swap.max", "0")
            (unified / "pids.max").write_text(pids)
        else:
            memory = self._paths["memory"]
            (memory / "memory.limit_in_bytes").write_text(str(limits.memory_bytes))
            _write_if_there(memory / "memory.memsw.limit_in_bytes", str(limits.memory_bytes))
            (self._paths["pids"] / "pids.max").write_text(pids)

    def join(self, pid: int) -> None:
        """Moves a process into the group. Its later children are created there. May block for about 10 ms."""
        for path in self._paths.values():
            (path / "cgroup.procs").write_text(str(pid))

    def memory_kills(self) -> int:
        """How many processes of the group the kernel has ever killed for lack of memory."""
        unified = self._paths.get("unified")
        text = (unified / "memory.events" if unified else self._paths["memory"] / "memory.oom_control").read_text()
        return int(dict(line.split() for line in text.splitlines()).get("oom_kill", 0))

    def cpu_s(self) -> float | None:
        """Total processor time of the group in seconds; None if it is not counted."""
        if self._cpu_file < 0:  # kept open, since it is read at every run
            directory = self._paths.get("unified" if self._unified else "cpuacct")
            if directory is None:
                return None
            self._cpu_file = os.open(directory / ("cpu.stat" if self._unified else "cpuacct.usage"), os.O_RDONLY | os.O_CLOEXEC)
        text = os.pread(self._cpu_file, 4096, 0)
        return int(text.split()[1]) / 1e6 if self._unified else int(text) / 1e9

    def close(self) -> None:
        """Closes our handle on the group, which exists until it is removed."""
        if self._cpu_file >= 0:
            os.close(self._cpu_file)
            self._cpu_file = -1

    def remove(self) -> None:
        """Removes the group, whose processes must have ended."""
        self.close()
        for path in self._paths.values():
            with contextlib.suppress(FileNotFoundError):
                path.rmdir()


class Groups:
    """The groups of one pool, below one directory per controller that is removed with them."""

    def __init__(self, hierarchy: Hierarchy) -> None:
        name = f"{_PREFIX}{os.getpid()}-{secrets.token_hex(4)}"
        self._parents: dict[str, Path] = {}
        for controller, parent in hierarchy.parents.items():
            _sweep(parent)
            self._parents[controller] = parent / name
            self._parents[controller].mkdir()
        if hierarchy.version == 2:
            (self._parents["unified"] / "cgroup.subtree_control").write_text("+memory +pids")

    def create(self, limits: Limits) -> Group:
        """A new group. Raises OSError if it cannot be made."""
        return Group(self._parents, secrets.token_hex(4), limits)

    def remove(self) -> None:
        for parent in self._parents.values():
            for path in (*parent.glob("*/"), parent):
                with contextlib.suppress(OSError):
                    path.rmdir()


def detect() -> Hierarchy | str:
    """The hierarchy that this process may make groups in, or the reason why there is none."""
    own = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    mounts = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    v1: dict[str, Path] = {}
    for _, controllers, group in own:
        for controller in controllers.split(","):
            if controller in (*_NEEDED, *_V1_WANTED) and (path := _directory(mounts, "cgroup", controller, group)):
                v1[controller] = path
    if all(controller in v1 for controller in _NEEDED):
        return _writable(Hierarchy(1, v1))
    for _, controllers, group in own:
        if controllers == "" and (path := _directory(mounts, "cgroup2", None, group)):
            offered = (path / "cgroup.controllers").read_text().split()
            missing = [controller for controller in _NEEDED if controller not in offered]
            if not missing:
                return _writable(Hierarchy(2, {"unified": path}))
            return f"{path}, the group of this process, is not given the {' and '.join(missing)} controller"
    return "the memory and pids controllers are not mounted"


def enable(hierarchy: Hierarchy) -> None:
    """For v2, enables the controllers for child groups.

    A group may not have both children and processes, so its processes are moved to a leaf first.
    """
    if hierarchy.version == 1:
        return
    own = hierarchy.parents["unified"]
    try:
        (own / "cgroup.subtree_control").write_text("+memory +pids")
    except OSError:
        leaf = own / f"{_PREFIX}host"
        leaf.mkdir(exist_ok=True)
        for pid in (own / "cgroup.procs").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                (leaf / "cgroup.procs").write_text(pid)
        (own / "cgroup.subtree_control").write_text("+memory +pids")


def _directory(mounts: list[list[str]], kind: str, controller: str | None, group: str) -> Path | None:
    """The directory of our own group in the mount of that kind; the mount's top if the group's path is not visible here."""
    for fields in mounts:
        separator = fields.index("-")
        options = fields[-1].split(",")
        if fields[separator + 1] == kind and (controller is None or controller in options):
            top = Path(fields[4])
            own = top / os.path.relpath(group, fields[3])
            return own if own.is_dir() and own.is_relative_to(top) and ".." not in own.parts else top
    return None


def _writable(hierarchy: Hierarchy) -> Hierarchy | str:
    for path in hierarchy.parents.values():
        probe = path / f"{_PREFIX}probe-{os.getpid()}-{secrets.token_hex(4)}"
        try:
            probe.mkdir()
            probe.rmdir()
        except OSError as error:
            return f"{path} is not writable ({error.strerror})"
    return hierarchy


def _sweep(parent: Path) -> None:
    """Removes the groups that a killed host process left behind. Only empty groups can be removed, so no process is touched."""
    for stale in parent.glob(f"{_PREFIX}*-*"):
        owner = stale.name.removeprefix(_PREFIX).split("-")[0]
        if owner.isdigit() and not Path("/proc", owner).exists():
            for path in (*stale.glob("*/"), stale):
                with contextlib.suppress(OSError):
                    path.rmdir()


def _write_if_there(path: Path, text: str) -> None:
    with contextlib.suppress(OSError):  # a kernel without swap accounting has no such file
        path.write_text(text)
