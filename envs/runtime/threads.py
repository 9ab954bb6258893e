"""Blocking calls from an event loop, on daemon threads with a bound."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any


class Threads:
    """Runs blocking calls, at most `limit` at a time, each on a new thread.

    A cancelled call frees its slot at once, though its thread runs on: Python cannot stop a thread, and a stuck call would keep its
    slot forever. The threads are daemons, so none keeps the process alive.
    """

    def __init__(self, limit: int) -> None:
        self._slots = asyncio.Semaphore(limit)

    async def run(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Await `function(*arguments, **options)`."""
        async with self._slots:
            loop = asyncio.get_running_loop()
            outcome: asyncio.Future[Any] = loop.create_future()

            def settle(result: Any, error: BaseException | None) -> None:
                if outcome.done():
                    return
                if error is None:
                    outcome.set_result(result)
                else:
                    outcome.set_exception(error)

            def work() -> None:
                result, error = None, None
                try:
                    result = function(*arguments, **options)
                except BaseException as raised:
                    error = RuntimeError(f"{raised!r}") if isinstance(raised, StopIteration) else raised
                if not loop.is_closed():
                    loop.call_soon_threadsafe(settle, result, error)

            threading.Thread(target=work, name="blocking-call", daemon=True).start()
            return await outcome
