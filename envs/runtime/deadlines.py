"""Deadlines whose clock stands still while what they limit waits in line for something shared."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar


class Deadline:
    """How much time is left; made by `within`. `waited_s` counts the seconds in which its clock stood still."""

    def __init__(self, timeout: asyncio.Timeout) -> None:
        self._timeout = timeout
        self._pauses = 0
        self._left_s = self._paused_at = self.waited_s = 0.0
        self._over = False

    @property
    def expired(self) -> bool:
        """Whether the deadline has passed, as opposed to a TimeoutError that something inside raised."""
        return self._timeout.expired()

    def pause(self) -> None:
        """Stop the clock until `resume` was called as often as this."""
        self._pauses += 1
        when = self._timeout.when()
        if self._pauses == 1 and when is not None and not (self._over or self.expired):
            self._paused_at = asyncio.get_running_loop().time()
            self._left_s = when - self._paused_at
            self._timeout.reschedule(None)

    def resume(self) -> None:
        """Let the clock go on."""
        self._pauses -= 1
        if not self._pauses and not (self._over or self.expired):
            now = asyncio.get_running_loop().time()
            self.waited_s += now - self._paused_at
            self._timeout.reschedule(now + self._left_s)

    def end(self) -> None:
        """What was limited has ended; tasks that it left behind change nothing any more."""
        self._over = True


_AROUND: ContextVar[tuple[Deadline, ...]] = ContextVar("deadlines", default=())


@asynccontextmanager
async def within(seconds: float) -> AsyncGenerator[Deadline]:
    """As `asyncio.timeout(seconds)`, but time spent inside `waiting()`, by this task or one that it starts, does not count.

    Raises TimeoutError at the deadline; `expired` tells it from one that was raised inside.
    """
    async with asyncio.timeout(seconds) as timeout:
        deadline = Deadline(timeout)
        token = _AROUND.set((*_AROUND.get(), deadline))
        try:
            yield deadline
        finally:
            deadline.end()
            _AROUND.reset(token)


@contextmanager
def waiting() -> Generator[None]:
    """What runs inside waits for something that others hold: the clocks of all deadlines around it stand still."""
    deadlines = _AROUND.get()
    for deadline in deadlines:
        deadline.pause()
    try:
        yield
    finally:
        for deadline in deadlines:
            deadline.resume()
