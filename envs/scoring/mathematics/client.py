"""The client of the process that compares expressions: one for each process that scores, for any of its event loops."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import itertools
import json
import logging
import os
import subprocess
import sys
import threading
from concurrent.futures import Future
from pathlib import Path

WAIT_S = 60.0
"""How long an answer may wait for its comparison, its turn included. It must end before the turn that it is part of."""

# Without the package's __init__, which imports far more than a comparison needs, threads among it.
_START = """
import sys, types
package = types.ModuleType("envs")
package.__path__ = [sys.argv[1]]
sys.modules["envs"] = package
from envs.scoring.mathematics.server import main
main()
"""
log = logging.getLogger(__name__)


class ServerDied(Exception):
    """The process ended before it answered."""


class Client:
    """Starts the process when it is first needed, and another if it dies. Safe for threads and event loops."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._waiting: dict[int, Future[bool | None]] = {}
        self._numbers = itertools.count()
        self._owner = os.getpid()

    async def compare(self, answer: str, truth: str) -> bool | None:
        """Whether the expressions are equal; None if that was not decided in time. Raises ServerDied."""
        number, future = self._submit(answer, truth)
        try:
            async with asyncio.timeout(WAIT_S):
                return await asyncio.wrap_future(future)
        except TimeoutError:
            return None
        finally:
            if self._waiting.pop(number, None) is not None:
                with contextlib.suppress(OSError), self._lock:
                    self._send({"cancel": number})

    def close(self) -> None:
        """End the process."""
        with self._lock:
            process, self._process = self._process, None
        if process is not None and self._owner == os.getpid():
            with contextlib.suppress(OSError):
                process.stdin.close() if process.stdin else None
            try:
                process.wait(timeout=2)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _submit(self, answer: str, truth: str) -> tuple[int, Future[bool | None]]:
        future: Future[bool | None] = Future()
        with self._lock:
            if self._owner != os.getpid():  # a forked process cannot share its parent's
                self._process, self._waiting, self._owner = None, {}, os.getpid()
            number = next(self._numbers)
            self._waiting[number] = future
            if self._process is None:
                self._process = self._started()
            try:
                self._send({"id": number, "answer": answer, "truth": truth})
            except OSError:
                del self._waiting[number]
                raise ServerDied from None
        return number, future

    def _send(self, record: dict[str, object]) -> None:
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.write(json.dumps(record).encode() + b"\n")
            self._process.stdin.flush()

    def _started(self) -> subprocess.Popen[bytes]:
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            [sys.executable, "-c", _START, str(Path(__file__).parents[2])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )
        threading.Thread(target=self._listen, args=(process,), name="mathematics", daemon=True).start()
        return process

    def _listen(self, process: subprocess.Popen[bytes]) -> None:
        """Hand the results to those that wait, until the process ends."""
        assert process.stdout is not None
        for line in process.stdout:
            record = json.loads(line)
            if (future := self._waiting.pop(record["id"], None)) is not None and future.set_running_or_notify_cancel():
                future.set_result(record["right"])
        with self._lock:
            if self._process is process:
                self._process = None
                waiting, self._waiting = self._waiting, {}
            else:
                waiting = {}
        process.wait()
        for future in waiting.values():
            if future.set_running_or_notify_cancel():
                future.set_exception(ServerDied())


client = Client()
atexit.register(client.close)
