"""A session: code runs one cell after another in one namespace, as in a notebook, and every run ends in exactly one `Result`."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import signal
import time
from collections.abc import Awaitable, Callable, Sequence

from PIL import Image

from sandbox import images
from sandbox.host.cgroups import Group
from sandbox.jailed import wire
from sandbox.process import Ending, Process, Turn
from sandbox.types import Limits, Observer, Result, Status

_PROCESSORS = os.cpu_count() or 1
_GRACE_S = 0.5  # between the interrupt and the kill
_OUTCOMES = {
    wire.OUTCOME_OK: Status.OK,
    wire.OUTCOME_EXCEPTION: Status.EXCEPTION,
    wire.OUTCOME_INTERRUPTED: Status.EXCEPTION,  # a KeyboardInterrupt that was not ours
    wire.OUTCOME_MEMORY: Status.MEMORY,
}


class Session:
    """One isolated namespace. Made by `Pool.session`; `image_1 … image_n` are in the namespace."""

    def __init__(
        self,
        limits: Limits,
        question: Sequence[Image.Image],
        start: Callable[[Sequence[Image.Image]], Awaitable[Process]],
        group: Group | None,
        observer: Observer | None = None,
    ) -> None:
        self._limits = limits
        self._question = tuple(question)
        self._start = start
        self._group = group
        self._observer = observer
        self._process: Process | None = None
        self._lock = asyncio.Lock()
        self._cell = 0
        self._memory_kills = 0
        self._cpu_watch = _CpuWatch(None, math.inf)

    async def open(self) -> None:
        """Starts the processes. A failure is not raised: the next run tries again and, if that fails, returns SANDBOX_FAILURE."""
        with contextlib.suppress(OSError, EOFError, TimeoutError):
            await self._restart()

    async def run(self, code: str, timeout_s: float | None = None) -> Result:
        """Runs a cell and returns what it printed, echoed and showed. No failure of the code or the sandbox is raised.

        `timeout_s` is wall time in seconds, at most (and by default) `limits.wall_s`. At the deadline the code is interrupted
        like a notebook cell; if it stops within half a second the namespace is kept. Otherwise (it ignores the interrupt, or is
        inside a long call in C) every process of the session is killed, and the next run starts from an empty namespace and says
        so in `stderr`. The same holds for the processor time `limits.cpu_s`, which is counted for each run over all processes.
        `stdout` and `stderr` keep their first `limits.output_bytes` each; code that writes far more is stopped. Runs of one
        session take turns.
        """
        async with self._lock:
            limit_s = self._limits.wall_s if timeout_s is None else min(timeout_s, self._limits.wall_s)
            result = await self._result(code, limit_s)
        if self._observer is not None:
            self._observer.run_ended(result.status, result.duration_s)
        return result

    async def close(self) -> None:
        """Ends every process of the session, once the run under way has ended; its files go with them."""
        async with self._lock:
            await self._kill()

    async def _result(self, code: str, limit_s: float) -> Result:
        started = time.monotonic()
        try:
            status, turn, notes = await self._run(code, limit_s)
        except (OSError, EOFError, TimeoutError) as error:
            await self._kill()
            return Result(Status.SANDBOX_FAILURE, "", f"[sandbox] {error}\n", (), time.monotonic() - started)
        except BaseException:
            await self._kill()  # cancelled: the state of the run is unknown, so there must be none
            raise
        shown = await asyncio.to_thread(lambda: tuple(map(images.unpack, turn.images))) if turn.images else ()
        if turn.images_dropped:
            notes.append(
                f"{turn.images_dropped} images not returned: the limits for one run are {self._limits.images} images and "
                f"{self._limits.image_pixels} pixels in all"
            )
        if turn.output_dropped:
            status = Status.OUTPUT_LIMIT if status is Status.OK else status
            notes.append(f"output is limited to {self._limits.output_bytes} bytes; {turn.output_dropped} dropped")
        stderr = turn.stderr.decode(errors="replace") + "".join(f"[sandbox] {note}\n" for note in notes)
        return Result(status, turn.stdout.decode(errors="replace"), stderr, shown, time.monotonic() - started)

    async def _run(self, code: str, limit_s: float) -> tuple[Status, Turn, list[str]]:
        notes: list[str] = []
        process, turn, deadline = await self._begin(code, limit_s, notes)
        watch = self._cpu_watch = _CpuWatch(self._group, self._limits.cpu_s)
        try:
            ending = await process.wait(deadline - time.monotonic(), lambda: watch.look(process.stop_for_cpu))
        finally:
            watch.cancel()
        if ending.outcome:
            process.collect()
            return _OUTCOMES.get(ending.outcome, Status.EXCEPTION), turn, notes
        if ending.deadline or ending.flood or ending.cpu:
            status = Status.OUTPUT_LIMIT if ending.flood else Status.TIMEOUT
            reason = "output" if ending.flood else f"{self._limits.cpu_s:g} s of processor time" if ending.cpu else f"{limit_s:g} s"
            if process.usable and await process.interrupt(_GRACE_S):
                process.collect()
                notes.append(f"stopped after {'too much output' if ending.flood else reason}; variables are kept")
            else:
                await self._kill()
                notes.append(f"killed after {'too much output' if ending.flood else reason}; variables are lost")
            return status, turn, notes
        await self._kill()
        return self._cause_of_death(ending, notes), turn, notes

    async def _begin(self, code: str, limit_s: float, notes: list[str]) -> tuple[Process, Turn, float]:
        """Hands the cell to a living process; returns that, the turn, and the clock's time at which the run must end."""
        for last_attempt in (False, True):
            process = await self._living(notes)
            deadline = time.monotonic() + limit_s  # starting a process does not count as the code's time
            try:
                turn = await process.begin(self._cell + 1, code, limit_s)
            except OSError:  # something that an earlier cell left behind has just ended it, and we had not been notified yet
                if last_attempt:
                    raise
                await self._kill()
            else:
                self._cell += 1
                return process, turn, deadline
        raise AssertionError("unreachable")

    async def _living(self, notes: list[str]) -> Process:
        """The session's process; if it has ended, a new one and a note that says so. Raises OSError, EOFError, TimeoutError."""
        if self._process is None or not self._process.usable:
            if self._cell:
                notes.append("the session had ended and started again: earlier variables and files are gone")
            await self._restart()
        assert self._process is not None
        return self._process

    def _cause_of_death(self, ending: Ending, notes: list[str]) -> Status:
        if self._group is not None and self._group.memory_kills() > self._memory_kills:
            notes.append(f"killed for using more than {self._limits.memory_bytes >> 20} MiB of memory; variables are lost")
            return Status.MEMORY
        if ending.forged:
            notes.append("killed: something other than the interpreter wrote to its channel; variables are lost")
            return Status.KILLED
        if ending.died is None:
            notes.append(ending.lost)
            return Status.SANDBOX_FAILURE
        code = os.waitstatus_to_exitcode(ending.died)
        if code == -signal.SIGXCPU and self._cpu_watch.spent():  # else it sent the signal to itself
            notes.append(f"killed after {self._limits.cpu_s:g} s of processor time; variables are lost")
            return Status.TIMEOUT
        how = f"was killed by {_signal_name(-code)}" if code < 0 else f"ended itself with exit status {code}"
        notes.append(f"the process {how}; variables are lost")
        return Status.KILLED

    async def _restart(self) -> None:
        await self._kill()
        self._memory_kills = self._group.memory_kills() if self._group is not None else 0
        self._process = await self._start(self._question)

    async def _kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            await asyncio.shield(process.close())


class _CpuWatch:
    """The processor time of one run: all that `group` uses from now on."""

    __slots__ = ("_group", "_most", "_timer")

    def __init__(self, group: Group | None, limit_s: float) -> None:
        begin = group.cpu_s() if group is not None and limit_s < math.inf else None
        self._group = None if begin is None else group
        self._most = (begin or 0.0) + limit_s
        self._timer: asyncio.TimerHandle | None = None

    def spent(self) -> bool:
        """Whether the limit is reached; assumed if processor time is not counted."""
        used = self._group.cpu_s() if self._group is not None else None
        return used is None or used >= self._most

    def look(self, stop: Callable[[], None]) -> None:
        """Calls `stop` if the limit is reached; otherwise looks again at the earliest time at which it can be reached."""
        if self._group is None:
            return
        left_s = self._most - (self._group.cpu_s() or 0.0)
        if left_s <= 0:
            stop()
        else:
            self._timer = asyncio.get_running_loop().call_later(max(0.05, left_s / _PROCESSORS), self.look, stop)

    def cancel(self) -> None:
        """Looks no more."""
        if self._timer is not None:
            self._timer.cancel()


def _signal_name(number: int) -> str:
    """Most of the real-time signals have no name."""
    return signal.Signals(number).name if number in iter(signal.Signals) else f"signal {number}"
