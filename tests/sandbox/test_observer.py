"""A pool tells its observer of every start, session and run."""

from __future__ import annotations

import asyncio
import os
import signal

from sandbox_host import LIMITS, descendants

from sandbox import Pool, Status


class Notes:
    def __init__(self) -> None:
        self.jails = 0
        self.starts: list[float] = []
        self.sessions: list[tuple[int, int]] = []
        self.runs: list[tuple[Status, float]] = []

    def jail_started(self) -> None:
        self.jails += 1

    def sessions_changed(self, open: int, waiting: int) -> None:
        self.sessions.append((open, waiting))

    def session_started(self, seconds: float) -> None:
        self.starts.append(seconds)

    def run_ended(self, status: Status, seconds: float) -> None:
        self.runs.append((status, seconds))


async def test_the_observer_sees_runs_with_status_and_seconds() -> None:
    notes = Notes()
    async with Pool(LIMITS, size=1, preload=[], observer=notes) as pool, pool.session() as session:
        results = [await session.run(code) for code in ("1", "1 / 0")]
    assert notes.runs == [(result.status, result.duration_s) for result in results]
    assert [status for status, _ in notes.runs] == [Status.OK, Status.EXCEPTION]


async def test_the_observer_sees_open_and_waiting_sessions() -> None:
    notes = Notes()
    async with Pool(LIMITS, size=1, preload=[], observer=notes) as pool:

        async def use() -> None:
            async with pool.session() as session:
                await session.run("1")

        await asyncio.gather(use(), use())
    assert (1, 1) in notes.sessions
    assert notes.sessions[-1] == (0, 0)
    assert len(notes.starts) == 2
    assert all(seconds > 0 for seconds in notes.starts)


async def test_the_observer_sees_a_replaced_jail() -> None:
    notes, before = Notes(), descendants()
    async with Pool(LIMITS, size=1, preload=[], observer=notes) as pool:
        for pid in descendants() - before:
            os.kill(pid, signal.SIGKILL)
        async with pool.session() as session:
            assert (await session.run("1")).status is Status.OK
    assert notes.jails == 2


async def test_no_more_sessions_than_the_size_are_open_while_cancelled_callers_leave() -> None:
    notes = Notes()
    async with Pool(LIMITS, size=1, preload=[], observer=notes) as pool:
        for _ in range(4):
            leaving = asyncio.Event()

            async def use(leaving: asyncio.Event = leaving) -> None:
                async with pool.session():
                    leaving.set()

            task = asyncio.create_task(use())
            await leaving.wait()
            await asyncio.sleep(0)  # the session is being closed now
            task.cancel()
            async with pool.session():
                pass
    assert max(sessions for sessions, _ in notes.sessions) == 1
