"""Sandboxes on separate nodes: Ray actors that each hold a `sandbox.Pool`, and a client with the pool's interface.

A GPU pod cannot hold jails, so episodes there send their code to nodes that offer the Ray resource `sandbox`. Code crosses the wire
as bytes, images as raw pixels in Ray's object store.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import random
import time
import uuid
from collections.abc import AsyncGenerator, Collection, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any

import numpy as np
import ray
from PIL import Image
from ray.exceptions import RayError

from envs.errors import UsageError
from rollout.cluster.sandbox_metrics import SandboxMetrics
from rollout.config import RolloutConfig
from sandbox import Limits, Pool, Result, Session, Status

log = logging.getLogger(__name__)

SILENCE_S = 120.0
"""After so many seconds without a word from a client, its sessions are closed."""

_MODES = ("L", "RGB", "RGBA")
_CPUS = 0.5  # an event loop that passes messages; what the jails use is accounted for by `sandbox`
_PATIENCE_S = 30.0  # less than an episode's turn, so that a lost cluster of sandboxes ends as our failure, not as the model's delay
_BACKOFF_S = 0.5


def resources(config: RolloutConfig) -> dict[str, float]:
    """What one sandbox actor asks Ray for: one unit of `sandbox` for each session at a time, a little CPU, and no GPU."""
    return {"CPU": _CPUS, "sandbox": config.sandboxes_per_actor}


def spawn(config: RolloutConfig, silence_s: float = SILENCE_S) -> Any:
    """The handle of a new `SandboxActor`. Ray starts it anew wherever `sandbox` is offered if it dies; the handle stays good.

    Raises UsageError for a pool without room.
    """
    if config.sandboxes_per_actor < 1:
        raise UsageError(f"rollout.sandboxes_per_actor={config.sandboxes_per_actor}: write at least 1, or rollout.sandbox_actors=0")
    needed = resources(config)
    # A session that waits for room occupies a call. Were the calls used up, none of those that end a session would get through.
    calls = 1000 + 2 * config.workers * config.episodes_per_worker
    return (
        ray.remote(SandboxActor)
        .options(
            num_cpus=needed["CPU"],
            resources={"sandbox": needed["sandbox"]},
            scheduling_strategy="SPREAD",
            max_restarts=-1,
            max_concurrency=calls,
        )
        .remote(config.sandboxes_per_actor, config.accept_reduced_isolation, config.packages, silence_s, config.limits)
    )


@dataclass(slots=True)
class _Held:
    """A session, open or waiting for room; closing `stack` closes it."""

    stack: contextlib.AsyncExitStack
    entering: asyncio.Task[Session]


class SandboxActor:
    """A pool of `size` sessions for the clients on other nodes. The class of a Ray actor; see `spawn`.

    A session is named by its client and a number that the client never gives twice. It ends when it is released, when its client no
    longer counts it among the living, or when the client has been silent for `silence_s` seconds.
    """

    def __init__(
        self,
        size: int,
        accept_reduced_isolation: bool | None = None,
        packages: Sequence[str] = (),
        silence_s: float = SILENCE_S,
        limits: Limits | None = None,
    ) -> None:
        self._settings: dict[str, Any] = {
            "limits": limits,
            "size": size,
            "accept_reduced_isolation": accept_reduced_isolation,
            "packages": packages,
        }
        self._silence_s = silence_s
        self._metrics = SandboxMetrics(size)
        self._pool: Pool | None = None
        self._starting = asyncio.Lock()
        self._closed = False
        self._sessions: dict[tuple[str, int], _Held] = {}
        self._heard: dict[str, float] = {}
        self._sweeper = asyncio.get_event_loop().create_task(self._sweep())

    async def _start(self) -> Pool:
        """The pool, started if it is not running. Raises SandboxUnavailable."""
        async with self._starting:
            if self._closed:
                raise RuntimeError("the sandbox actor is closed")
            if self._pool is None:
                self._pool = await Pool(**self._settings, observer=self._metrics).__aenter__()
            return self._pool

    async def ready(self) -> None:
        """Return once sessions can be opened. Raises SandboxUnavailable."""
        await self._start()

    async def open(self, client: str, number: int, pixels: Sequence[np.ndarray] = ()) -> None:
        """Open a session; waits while `size` are open. Raises SandboxUnavailable, and LookupError if it is ended meanwhile."""
        self._heard[client] = time.monotonic()
        stack = contextlib.AsyncExitStack()
        entering = asyncio.create_task(self._enter(stack, pixels))
        self._sessions[client, number] = _Held(stack, entering)
        await asyncio.wait([entering])
        if entering.cancelled():
            raise LookupError("the session was ended before it had opened")
        if entering.exception() is not None:
            self._sessions.pop((client, number), None)
        entering.result()

    async def _enter(self, stack: contextlib.AsyncExitStack, pixels: Sequence[np.ndarray]) -> Session:
        pool = await self._start()
        images = await asyncio.to_thread(_images, pixels) if pixels else ()
        return await stack.enter_async_context(pool.session(images=images))

    async def run(self, client: str, number: int, code: bytes, timeout_s: float | None) -> tuple[Result, Sequence[np.ndarray]]:
        """`Session.run`: the result without its images, and those. A session that is not there gives SANDBOX_FAILURE."""
        self._heard[client] = time.monotonic()
        held = self._sessions.get((client, number))
        if held is None or not held.entering.done():
            return _failure("the session is gone: its sandbox has restarted, or its client was not heard of", 0.0), ()
        result = await held.entering.result().run(code.decode("utf-8", "surrogatepass"), timeout_s)
        shown = await asyncio.to_thread(_pixels, result.images) if result.images else ()
        return replace(result, images=()), shown

    async def release(self, client: str, number: int) -> None:
        """End a session, open or waiting."""
        held = self._sessions.pop((client, number), None)
        if held is not None:
            held.entering.cancel()
            await asyncio.wait([held.entering])
            await held.stack.aclose()

    async def keep(self, client: str, alive: Collection[int], below: int) -> None:
        """The client is there. Of its sessions with a number less than `below`, those not `alive` are ended.

        Ray may overtake: a release that comes before its open finds nothing, and this mends it.
        """
        self._heard[client] = time.monotonic()
        await self._end([key for key in self._sessions if key[0] == client and key[1] < below and key[1] not in alive])

    async def health(self) -> dict[str, Any]:
        """Sessions `open` and `waiting`, id of the `process`, id of the `node`."""
        done = sum(held.entering.done() for held in self._sessions.values())
        node = ray.get_runtime_context().get_node_id()
        return {"open": done, "waiting": len(self._sessions) - done, "process": os.getpid(), "node": node}

    async def sandboxes(self) -> dict[str, Any]:
        """`SandboxMetrics.counts` of the pool."""
        return self._metrics.counts()

    async def close(self) -> None:
        """End all sessions and stop the pool."""
        self._sweeper.cancel()
        await self._end(list(self._sessions))
        async with self._starting:
            self._closed = True
            pool, self._pool = self._pool, None
            if pool is not None:
                await pool.__aexit__(None, None, None)

    async def _end(self, keys: Sequence[tuple[str, int]]) -> None:
        for outcome in await asyncio.gather(*(self.release(*key) for key in keys), return_exceptions=True):
            if isinstance(outcome, Exception):
                log.warning("a session could not be closed: %s", outcome)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(self._silence_s / 4)
            oldest = time.monotonic() - self._silence_s
            for client in [client for client, heard in self._heard.items() if heard < oldest]:
                del self._heard[client]
                lost = [key for key in self._sessions if key[0] == client]
                if lost:
                    log.warning("a client has vanished: its %d sessions are closed", len(lost))
                await self._end(lost)


@dataclass(eq=False, slots=True)
class _Seat:
    """One sandbox actor, and this client's sessions on it, waiting ones included."""

    actor: Any
    alive: set[int] = field(default_factory=set)
    down_until: float = 0.0


class RemoteSession:
    """A session on a sandbox actor, with the interface of `sandbox.Session`. Made by `RemotePool.session`."""

    def __init__(self, client: str, number: int, seat: _Seat | None, reason: str = "") -> None:
        self._client, self._number, self._seat, self._reason = client, number, seat, reason

    async def run(self, code: str, timeout_s: float | None = None) -> Result:
        """As `sandbox.Session.run`. SANDBOX_FAILURE also if the actor has died; the session is lost then."""
        if self._seat is None:
            return _failure(self._reason, 0.0)
        started = time.monotonic()
        call = self._seat.actor.run.remote(self._client, self._number, code.encode("utf-8", "surrogatepass"), timeout_s)
        try:
            result, pixels = await call
        except RayError as error:
            return _failure(_reason(error), time.monotonic() - started)
        except asyncio.CancelledError:
            ray.cancel(call)  # kills what runs, as a cancelled run does in a pool of one's own
            raise
        return replace(result, images=tuple(await asyncio.to_thread(_images, pixels))) if pixels else result

    async def close(self) -> None:
        """End the session."""
        seat, self._seat, self._reason = self._seat, None, "the session is closed"
        if seat is not None:
            seat.alive.discard(self._number)
            with contextlib.suppress(RayError):
                await seat.actor.release.remote(self._client, self._number)


class RemotePool:
    """Sessions on `actors` (handles from `spawn`), each on the actor on which this client has the fewest; for one event loop.

    Every `keep_alive_s` seconds, well below the actors' `silence_s`, the client tells them that it is there. If no actor gives a
    session for `patience_s` seconds, one is opened all the same and its runs give SANDBOX_FAILURE.
    """

    def __init__(self, actors: Sequence[Any], *, keep_alive_s: float = SILENCE_S / 4, patience_s: float = _PATIENCE_S) -> None:
        if not actors:
            raise ValueError("a RemotePool needs at least one sandbox actor")
        self._seats = [_Seat(actor) for actor in actors]
        self._keep_alive_s, self._patience_s = keep_alive_s, patience_s
        self._client = uuid.uuid4().hex
        self._numbers = itertools.count()
        self._open: set[RemoteSession] = set()
        self._keeper: asyncio.Task[None] | None = None
        self._closed = False

    async def __aenter__(self) -> RemotePool:
        self._keeper = asyncio.create_task(self._keep())
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._closed = True
        if self._keeper is not None:
            self._keeper.cancel()
        await asyncio.gather(*(session.close() for session in tuple(self._open)))

    @contextlib.asynccontextmanager
    async def session(self, images: Sequence[Image.Image] = ()) -> AsyncGenerator[RemoteSession]:
        """A fresh session with `images` as `image_1 … image_n`. Waits while the actor has no room for it.

        Raises RuntimeError when the pool is closed. A failure of the sandbox shows as SANDBOX_FAILURE of the session's runs.
        """
        if self._closed or self._keeper is None:
            raise RuntimeError("the pool is closed: use sessions inside `async with RemotePool(...)`")
        session = await self._enter(images)
        self._open.add(session)
        try:
            yield session
        finally:
            self._open.discard(session)
            await session.close()

    async def _enter(self, images: Sequence[Image.Image]) -> RemoteSession:
        pixels = await asyncio.to_thread(lambda: ray.put(_pixels(images))) if images else ()
        failing_since: float | None = None
        while True:
            seat, number = self._choose(), next(self._numbers)
            seat.alive.add(number)
            try:
                await seat.actor.open.remote(self._client, number, pixels)
                return RemoteSession(self._client, number, seat)
            except RayError as error:
                seat.alive.discard(number)
                now = time.monotonic()
                # An actor that fails at once has the fewest sessions: without a pause it would draw all of them.
                seat.down_until = now + _BACKOFF_S
                failing_since = now if failing_since is None else failing_since
                if now - failing_since > self._patience_s:
                    return RemoteSession(self._client, number, None, _reason(error))
                log.warning("a sandbox actor gave no session: %s", _reason(error))
                await asyncio.sleep(max(0.0, min(each.down_until for each in self._seats) - now))
            except BaseException:
                seat.alive.discard(number)
                seat.actor.release.remote(self._client, number)
                raise

    def _choose(self) -> _Seat:
        now = time.monotonic()
        up = [seat for seat in self._seats if seat.down_until <= now]
        # Among equals by lot: other clients count their own sessions only.
        return min(up or self._seats, key=lambda seat: (len(seat.alive), random.random()))

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(self._keep_alive_s)
            # Every number below has been counted, so none of a session that is just being opened is taken for lost.
            below = next(self._numbers)
            for seat in self._seats:
                # Nobody waits for the answer: an actor that is away has no session to keep.
                seat.actor.keep.options(num_returns=0).remote(self._client, tuple(seat.alive), below)


def _failure(reason: str, duration_s: float) -> Result:
    return Result(Status.SANDBOX_FAILURE, "", f"[sandbox] {reason}\n", (), duration_s)


def _reason(error: RayError) -> str:
    cause = getattr(error, "cause", None) or error
    return f"{type(cause).__name__}: {str(cause).partition('\n')[0]}"


def _pixels(images: Sequence[Image.Image]) -> list[np.ndarray]:
    """uint8 of shape (height, width) for mode L, (height, width, 3 or 4) for RGB and RGBA; others as a pool converts them."""
    return [
        np.asarray(image if image.mode in _MODES else image.convert("RGBA" if image.has_transparency_data else "RGB"))
        for image in images
    ]


def _images(pixels: Sequence[np.ndarray]) -> list[Image.Image]:
    return [Image.fromarray(array) for array in pixels]
