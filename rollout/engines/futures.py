"""Between an event loop and the threads that work for it: messages in, results back."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Sequence
from typing import Any

Result = tuple[asyncio.Future[Any], Any]
"""A future and its value, or the exception that it shall raise."""


def take(pending: queue.SimpleQueue[Any], block: bool) -> list[Any]:
    """All messages that wait in a queue, at least one if `block`."""
    messages = [pending.get()] if block else []
    while True:
        try:
            messages.append(pending.get_nowait())
        except queue.Empty:
            return messages


def resolve(results: Sequence[Result]) -> None:
    """Complete futures on their own event loops, with one wake-up per loop. Futures that are done already are left alone."""
    by_loop: dict[asyncio.AbstractEventLoop, list[Result]] = {}
    for future, result in results:
        by_loop.setdefault(future.get_loop(), []).append((future, result))
    for loop, batch in by_loop.items():
        try:
            loop.call_soon_threadsafe(_complete, batch)
        except RuntimeError:  # the loop is closed: nobody waits any more
            continue


def _complete(results: Sequence[Result]) -> None:
    for future, result in results:
        if future.done():
            continue
        if isinstance(result, BaseException):
            future.set_exception(result)
        else:
            future.set_result(result)
