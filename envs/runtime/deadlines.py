"""Deadlines that do not count the time in which work waits for what others hold: a jail, a service that is asked again."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType

_open: ContextVar[tuple[Deadline, ...]] = ContextVar("open deadlines", default=())


class DeadlinePassed(Exception):
    """A `Deadline` has passed, as opposed to a TimeoutError that the work inside raised. The message is its name and length."""


class Deadline:
    """`async with Deadline(name, seconds):` raises DeadlinePassed if the work inside takes longer, time in `uncounted` left out.

    Deadlines may be nested, and the work may go on in other tasks of the same event loop. `seconds` may be infinite.
    """

    def __init__(self, name: str, seconds: float) -> None:
        self._name, self._seconds = name, seconds
        self._timeout = asyncio.timeout(seconds)
        self._waiting, self._left_s = 0, seconds

    async def __aenter__(self) -> Deadline:
        await self._timeout.__aenter__()
        self._outer = _open.get()
        _open.set((*self._outer, self))
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        _open.set(self._outer)
        self._waiting = -1  # a task that outlives this work changes nothing any more
        try:
            await self._timeout.__aexit__(kind, error, trace)
        except TimeoutError:
            raise DeadlinePassed(f"{self._name}={self._seconds:g} s") from None

    def pause(self) -> None:
        """Stop the clock until as many calls of `resume` have followed."""
        if self._waiting < 0 or self._timeout.expired():
            return
        self._waiting += 1
        if self._waiting == 1:
            when = self._timeout.when()
            assert when is not None
            self._left_s = when - asyncio.get_running_loop().time()
            self._timeout.reschedule(None)

    def resume(self) -> None:
        """Let the clock go on, if nobody else waits."""
        if self._waiting <= 0:
            return
        self._waiting -= 1
        if not self._waiting:
            self._timeout.reschedule(asyncio.get_running_loop().time() + self._left_s)


@contextmanager
def uncounted() -> Generator[None]:
    """Time inside does not count against any of the deadlines around it."""
    deadlines = _open.get()
    for deadline in deadlines:
        deadline.pause()
    try:
        yield
    finally:
        for deadline in deadlines:
            deadline.resume()
