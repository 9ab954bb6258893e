"""The pool: a bounded number of sessions at a time, all forked from one zygote in one outer jail."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from types import TracebackType

from PIL import Image

from sandbox.host import cgroups, jail, nsjail
from sandbox.process import Process
from sandbox.session import Session
from sandbox.types import ACCEPT_REDUCED, Limits, Observer, SandboxUnavailable, accepts_reduced_isolation

PRELOAD = (
    "numpy", "numpy.random", "PIL.Image", "PIL.ImageDraw", "PIL.ImageFilter", "PIL.PngImagePlugin", "matplotlib.pyplot",
    "scipy.stats", "scipy.ndimage", "pandas", "sympy",
)  # fmt: skip
"""The modules that model-written code imports most, imported before sessions are forked: in a session the import costs nothing."""


@dataclass(slots=True)
class _Slot:
    """The place of one session: a cgroup, and the process in it that forks sessions, once there is one."""

    group: cgroups.Group | None
    peer: jail.Peer | None = None

    def close(self) -> None:
        """Closes the handles of both; neither ends by it."""
        if self.peer is not None:
            self.peer.close()
        if self.group is not None:
            self.group.close()


class Pool:
    """Sessions for untrusted Python, at most `size` at a time; further callers wait their turn.

    `async with Pool(...) as pool` starts the jail (about two seconds; the first time on a machine, a minute, to build the jail's
    environment) and leaves no process, cgroup, mount or file. Raises SandboxUnavailable if a protection is missing; with
    `accept_reduced_isolation=True` the pool starts without cgroups, so that memory and processor time are limited for each
    process but not for all of a session's processes together; None asks the environment (see `accepts_reduced_isolation`). No
    other protection can be waived. `preload` are the modules
    imported before sessions are forked; any other module of the environment is imported by the code that uses it. `packages` are
    pins (`NAME==VERSION`) that are added to those of `sandbox/packages.txt` or replace them. `observer` is notified of starts,
    sessions and runs.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        size: int | None = None,
        *,
        accept_reduced_isolation: bool | None = None,
        preload: Sequence[str] = PRELOAD,
        packages: Sequence[str] = (),
        observer: Observer | None = None,
    ) -> None:
        if not isinstance(limits, Limits | None):
            raise TypeError(f"Pool({limits!r}): the first argument is a Limits; the number of sessions is size=")
        self.limits = limits or Limits()
        self.size = size or 4 * (os.cpu_count() or 1)
        self._accept_reduced_isolation = accepts_reduced_isolation(accept_reduced_isolation)
        self._preload = tuple(preload)
        self._packages = tuple(packages)
        self._observer = observer
        self._waiting = 0
        self._room = asyncio.Semaphore(self.size)
        self._starting = asyncio.Lock()
        # When a jail dies, all its sessions start again at once: more starts at a time would slow down those that have started.
        self._starts = asyncio.Semaphore(2 * (os.cpu_count() or 1))
        self._free: list[_Slot] = []
        self._groups: cgroups.Groups | None = None
        self._jail: jail.Jail | None = None
        self._open: set[Session] = set()
        self._closed = True

    async def __aenter__(self) -> Pool:
        self._groups = self._make_groups()
        self._closed = False
        try:
            await self._running_jail()
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await asyncio.shield(self._close())

    @contextlib.asynccontextmanager
    async def session(self, images: Sequence[Image.Image] = ()) -> AsyncGenerator[Session]:
        """A fresh session with `images` as `image_1 … image_n` (PIL images, and files). Waits while `size` sessions are open.

        Raises RuntimeError if the pool is closed. If the sandbox fails, the session's runs return SANDBOX_FAILURE.
        """
        await self._wait_for_room()
        try:
            if self._closed:  # not `_jail is None`: that is also so while a dead jail is replaced
                raise RuntimeError("the pool is closed: use sessions inside `async with Pool(...)`")
            slot = self._free.pop() if self._free else _Slot(None if self._groups is None else self._groups.create(self.limits))
        except BaseException:
            self._room.release()
            raise

        async def start(question: Sequence[Image.Image]) -> Process:
            return await self._start(slot, question)

        session = Session(self.limits, images, start, slot.group, self._observer)
        self._open.add(session)
        self._tell_sessions()
        try:
            started = time.monotonic()
            await session.open()
            if self._observer is not None:
                self._observer.session_started(time.monotonic() - started)
            yield session
        finally:
            await asyncio.shield(self._release(session, slot))

    async def _release(self, session: Session, slot: _Slot) -> None:
        """Returns the slot, and only then the room, even if the caller is cancelled meanwhile: a session that took the room earlier
        would be one more than `size`."""
        try:
            await session.close()
        finally:
            self._open.discard(session)
            self._free.append(slot)
            self._room.release()
            self._tell_sessions()
            if self._closed:
                slot.close()

    async def _wait_for_room(self) -> None:
        self._waiting += 1
        try:
            if self._room.locked():
                self._tell_sessions()
            await self._room.acquire()
        finally:
            self._waiting -= 1

    def _tell_sessions(self) -> None:
        if self._observer is not None:
            self._observer.sessions_changed(len(self._open), self._waiting)

    def _make_groups(self) -> cgroups.Groups | None:
        """The groups of this pool. Raises SandboxUnavailable if there can be none, unless that is accepted."""
        hierarchy = cgroups.detect()
        try:
            if isinstance(hierarchy, cgroups.Hierarchy):
                cgroups.enable(hierarchy)
                return cgroups.Groups(hierarchy)
            reason = hierarchy
        except OSError as error:
            reason = str(error)
        if self._accept_reduced_isolation:
            return None
        raise SandboxUnavailable(
            f"no cgroup to limit memory and processes with ({reason}): run `toolwise doctor` for the remedy, "
            f"or accept it with accept_reduced_isolation=True or {ACCEPT_REDUCED}=1"
        )

    async def _running_jail(self) -> jail.Jail:
        """The jail, started anew if it has died. Raises SandboxUnavailable if it cannot be started."""
        starting = asyncio.create_task(self._ensure_jail())  # shared by all callers: cancelling one must not leave it half-made
        starting.add_done_callback(lambda task: task.cancelled() or task.exception())  # seen, even if that caller is the only one
        return await asyncio.shield(starting)

    async def _ensure_jail(self) -> jail.Jail:
        async with self._starting:
            if self._closed:
                raise SandboxUnavailable("the pool is closed: use sessions inside `async with Pool(...)`")
            if self._jail is not None and not self._jail.alive:
                died, self._jail = self._jail, None
                await died.close()
            if self._jail is None:
                from sandbox import rootfs  # here, so that `python -m sandbox.rootfs` can be run: it must not be imported twice

                nsjail.require()
                root = await asyncio.to_thread(rootfs.build, self._packages)
                limits = self.limits
                settings = {
                    "preload": self._preload,
                    "packages": rootfs.offered(self._packages),
                    "disk_bytes": limits.disk_bytes,
                    "memory_bytes": limits.memory_bytes,
                    "pids": limits.pids,
                    "cpu_s": limits.cpu_s,
                    "images": limits.images,
                    "image_side": limits.image_side,
                    "image_pixels": limits.image_pixels,
                }
                self._jail = await jail.Jail.start(root, settings)
                if self._observer is not None:
                    self._observer.jail_started()
            return self._jail

    async def _start(self, slot: _Slot, question: Sequence[Image.Image]) -> Process:
        """Forks a session in `slot`; in a new slot if this one is dead. Raises OSError, EOFError or TimeoutError if it fails."""
        async with self._starts:
            return await self._start_now(slot, question)

    async def _start_now(self, slot: _Slot, question: Sequence[Image.Image]) -> Process:
        if slot.peer is not None:
            with contextlib.suppress(OSError, EOFError, TimeoutError):
                return await Process.start(slot.peer, self.limits, question)
            slot.peer.kill()
            await slot.peer.ended()
            slot.peer = None
        try:
            slot.peer = await self._new_slot(slot.group)
        except SandboxUnavailable as error:
            raise OSError(str(error)) from error
        return await Process.start(slot.peer, self.limits, question)

    async def _new_slot(self, group: cgroups.Group | None) -> jail.Peer:
        """A slot from the jail, or from a new jail if this one is dying. May also raise SandboxUnavailable."""
        running = await self._running_jail()
        try:
            return await running.open_slot(group)
        except TimeoutError:
            pass
        except (OSError, EOFError):
            if running.alive:  # then perhaps only the slot died, which is no reason to end all other sessions
                with contextlib.suppress(OSError, EOFError, TimeoutError):
                    return await running.open_slot(group)
        await asyncio.shield(self._give_up(running))
        return await (await self._running_jail()).open_slot(group)

    async def _give_up(self, running: jail.Jail) -> None:
        async with self._starting:
            if self._jail is running:
                self._jail = None
                await running.close()

    async def _close(self) -> None:
        self._closed = True
        for session in tuple(self._open):
            await session.close()
        async with self._starting:  # a jail that is being started is ended too
            if self._jail is not None:
                await self._jail.close()
                self._jail = None
        for slot in self._free:
            slot.close()
        self._free.clear()
        if self._groups is not None:
            self._groups.remove()
            self._groups = None
