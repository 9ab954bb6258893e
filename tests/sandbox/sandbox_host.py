"""What the tests share: the limits of their pool, what the host has lying around, what the host sees of the jail."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Literal, Protocol

from sandbox import Limits, Pool, Result, Status

AS_ROOT = os.geteuid() == 0
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

_PRIORITY = (resource.RLIMIT_RTPRIO, 99), (resource.RLIMIT_NICE, 40)

Executor = Literal["fresh", "reused"]

# What a session leaves behind in the slot that the attack then gets: a bit of every kind of state that a process can make.
LEAVE_STATE = """
import builtins, ctypes, mmap, os, random, signal, socket, sys, threading, time
import numpy
left = builtins.left = sys.left = 'left'
os.environ['LEFT'] = 'left'
for place in ('/work', '/tmp', '/dev/shm'):
    with open(f'{place}/left', 'w') as file: file.write('left')
    os.symlink('/proc/self/mem', f'{place}/link')
    os.mkfifo(f'{place}/fifo')
listener = socket.socket(socket.AF_UNIX)
listener.bind('\\0left')
listener.listen()
libc = ctypes.CDLL(None)
ipc = libc.shmget(0x1234, 1 << 20, 0o1666), libc.semget(0x1234, 1, 0o1666), libc.msgget(0x1234, 0o1666)
random.seed(1), numpy.random.seed(1)
kept = [os.memfd_create('left'), mmap.mmap(-1, 1 << 20), socket.socketpair()]
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
os.umask(0), os.nice(3), os.chdir('/tmp')
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0: time.sleep(600)
    os._exit(0)
threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
min(ipc) >= 0"""


class AttackedSession(Protocol):
    """What the attacks use of `sandbox.Session`."""

    async def run(self, code: str, timeout_s: float | None = None) -> Result: ...


class AttackedPool(Protocol):
    """What the attacks use of a pool, be it in this process or in another user's."""

    def session(self, images: tuple = ()) -> contextlib.AbstractAsyncContextManager[AttackedSession]: ...

    async def discard_slots(self) -> None: ...


@contextlib.contextmanager
def temptation() -> Iterator[None]:
    """What a careless host has lying around: a key in its environment, an open descriptor with a high number, priority."""
    os.environ["WANDB_API_KEY"] = SECRET
    with open("/etc/passwd") as file:
        os.dup2(file.fileno(), HIGH_FD, inheritable=True)
    earlier = {kind: resource.getrlimit(kind) for kind, _ in _PRIORITY}
    for kind, most in _PRIORITY:
        with contextlib.suppress(ValueError):  # not everyone may raise a limit
            resource.setrlimit(kind, (most, most))
    try:
        yield
    finally:
        for kind, limits in earlier.items():
            resource.setrlimit(kind, limits)
        os.close(HIGH_FD)
        del os.environ["WANDB_API_KEY"]


async def discard_slots(pool: Pool) -> None:
    """Makes a pool of this process forget its idle slots. There is no way to ask it for a slot that has never held a session."""
    while pool._free:
        slot = pool._free.pop()
        if slot.peer is not None:
            slot.peer.kill()
            await slot.peer.ended()
        if slot.group is not None:
            with contextlib.suppress(OSError):
                slot.group.remove()  # else the pool removes it in the end


@contextlib.asynccontextmanager
async def session_in(pool: AttackedPool | Pool, executor: Executor) -> AsyncIterator[AttackedSession]:
    """A session in a slot that has never held one, or in a slot that has just held one which left much behind."""
    if executor == "fresh":
        await (discard_slots(pool) if isinstance(pool, Pool) else pool.discard_slots())
    else:
        async with pool.session() as earlier:
            done = await earlier.run(LEAVE_STATE)
            assert (done.status, done.stdout) == (Status.OK, "True\n"), done
    async with pool.session() as session:
        yield session


def host_pid(pool: AttackedPool | Pool) -> int:
    """The process that the pool lives in."""
    return getattr(pool, "pid", os.getpid())


def descendants(root: int | None = None) -> set[int]:
    """The processes below `root`, by default below this one, without those of a Ray that other tests left for the next ones: they
    come and go. Threads and zombies do not count."""
    parents = _parents()
    found: set[int] = set()
    frontier = {root or os.getpid()}
    while frontier:
        frontier = {pid for pid, parent in parents.items() if parent in frontier and not (root is None and _is_rays(pid))}
        found |= frontier
    return found


def busy_slots(host: int) -> set[int]:
    """The slots of the host process's pools that hold a session: nsjail's grandchildren that have children."""
    parents = _parents()
    return {
        parents[init]
        for init in descendants(host)
        if _name(parents.get(parents.get(parents.get(init, 0), 0), 0)) == "nsjail"
    }  # fmt: skip


def own_cgroups(host: int | None = None) -> list[Path]:
    """The control groups that pools of a process, by default this one, have made and not removed."""
    return list(Path("/sys/fs/cgroup").rglob(f"toolwise-{host or os.getpid()}-*"))


def _parents() -> dict[int, int]:
    parents: dict[int, int] = {}
    for name in os.listdir("/proc"):  # no Path: it interns each name, for good, which a test of memory would find
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat") as stat:
                    state, parent = stat.read().rsplit(")", 1)[1].split()[:2]
            except (FileNotFoundError, ProcessLookupError):
                continue
            if state != "Z":
                parents[int(name)] = int(parent)
    return parents


def _is_rays(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as command:
            return b"/site-packages/ray/" in command.read()
    except (FileNotFoundError, ProcessLookupError):
        return False


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""
