"""Soak: many sessions at once while their processes, the zygote and nsjail itself are killed at random. Every call gets one result.

Each cell prints a nonce of its own and what its session remembers, so that a result which belongs to another call, and a state
that was lost in silence, would be seen. Whatever is not the cell's own doing must have a cause: a kill that hit its session.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import math
import os
import random
import re
import select
import signal
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from sandbox_census import KINDS, census, jailed, kind_of, own_resident_bytes, report, settled

from sandbox import Limits, Pool, Result, Session, Status, process
from sandbox import session as session_module
from sandbox.host import jail

pytestmark = pytest.mark.asyncio(loop_scope="session")

# (short, whole)
TURNS = (1000, 100_000)
CONCURRENT = (16, 64)
SEED = 20
TURNS_PER_KILL = 60  # on average
# Of 32 kills. One of the zygote or of nsjail ends all sessions, so there are few of them.
KILLS = ["interpreter"] * 13 + ["init"] * 10 + ["slot"] * 7 + ["zygote", "nsjail"]
SWALLOW = "while True:\n    try:\n        while True: pass\n    except BaseException: pass"
GROWTH = 0.05

LIMITS = Limits(wall_s=5, cpu_s=20, memory_bytes=256 << 20, pids=16, disk_bytes=8 << 20, output_bytes=20_000, images=2)
TIMEOUT_S = 0.15

# How much longer than its timeout a call may take. The last term is for this process, which waits for a processor like the jails.
BUSY_S = 10.0
GRACE_S = session_module._GRACE_S + BUSY_S
# A call that must first start its session: a try in the old slot, a new jail and slot, and a try in that.
RESTART_S = 2 * 2 * process._START_S + 2 * jail._START_S + jail._END_S

NONCE = re.compile(r"<\d+:\d+>")
STARTED_AGAIN, LOST = "started again", "variables are lost"
CELLS = {
    "text": ("", Status.OK, 40),
    "arithmetic": ("import numpy\nassert numpy.arange(10).sum() == 45", Status.OK, 20),
    "picture": ("from PIL import Image\nImage.new('RGB', ({turn} % 50 + 1, {worker} + 1), 'red').show()", Status.OK, 8),
    "exception": ("raise ValueError({turn})", Status.EXCEPTION, 10),
    "file": ("open(f'/work/{turn}', 'w').write('x' * 1000)", Status.OK, 5),
    "child": ("import os, time\nif os.fork() == 0:\n    time.sleep(60)", Status.OK, 1),
    "memory": ("block = bytearray(8 << 20); del block", Status.OK, 4),
    "too much memory": ("bytearray(1 << 30)", Status.MEMORY, 4),
    "noise": ("print('x' * 100_000)", Status.OUTPUT_LIMIT, 2),
    "sleep past the deadline": ("import time; time.sleep(60)", Status.TIMEOUT, 1),
    "loop that swallows the interrupt": (SWALLOW, Status.TIMEOUT, 0.3),
    "own death": ("import os; os.kill(os.getpid(), 11)", Status.KILLED, 1),
    "cancelled": ("import time; time.sleep(0.2)", Status.OK, 1),
}  # fmt: skip
PREFIX = "seen, x = globals().get('x'), {tag!r}\nprint('{nonce}', seen)\n"


@dataclass
class Kill:
    kind: str
    over: float = math.inf  # when the last process that it ended was dead: a signal takes effect when the victim is scheduled
    session: Session | None = None  # the session whose process it was; None for one that was just being started


@dataclass
class Tally:
    turns: int = 0
    sessions: int = 0
    cancelled: int = 0
    restarts: int = 0
    kills: collections.Counter[str] = field(default_factory=collections.Counter)
    recent: collections.deque[Kill] = field(default_factory=lambda: collections.deque(maxlen=200))  # not all: they hold sessions
    statuses: collections.Counter[str] = field(default_factory=collections.Counter)
    beyond_s: float = 0.0
    beyond_after_a_start_s: float = 0.0


async def test_every_call_gets_one_result_whatever_is_killed(
    whole: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    turns, concurrent = TURNS[whole], CONCURRENT[whole]
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    raised: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: raised.append(context))
    async with Pool(LIMITS, size=2) as pool:
        await asyncio.gather(*(asyncio.to_thread(time.sleep, 0.1) for _ in range(32)))  # all the threads there will be
    before = census()
    others = set(jailed(set())["nsjail"])
    tally, started = Tally(), time.monotonic()
    async with Pool(LIMITS, size=concurrent) as pool:
        await _soak(pool, tally, turns // 10, concurrent, others)
        early = own_resident_bytes()
        await _soak(pool, tally, turns, concurrent, others)
        late = own_resident_bytes()
    took_s = time.monotonic() - started
    loop.set_exception_handler(None)

    after = await asyncio.to_thread(settled, census, before)
    report(
        capsys,
        f"{tally.turns} turns over {concurrent} concurrent sessions in {took_s:.0f} s",
        sessions=tally.sessions,
        kills=", ".join(f"{kind} {tally.kills[kind]}" for kind in KINDS),
        statuses=", ".join(f"{status} {count}" for status, count in tally.statuses.most_common()),
        cancelled_calls=tally.cancelled,
        restarts_that_a_result_reported=tally.restarts,
        longest_beyond_its_timeout=f"{tally.beyond_s:.2f} s; {tally.beyond_after_a_start_s:.2f} s of a call that started a session",
        own_memory=f"{early} bytes after {turns // 10} turns, {late} after {turns}: {late / early - 1:+.2%}",
        raised_in_the_event_loop=raised,
        left_after_the_pool=after.beyond(before) or "nothing",
    )
    assert raised == []
    assert after.beyond(before) == {}
    assert late <= early * (1 + GROWTH)


async def _soak(pool: Pool, tally: Tally, turns: int, concurrent: int, others: set[int]) -> None:
    """Goes on until `turns` turns are counted. The kills come after turns drawn from the seed, so their number is repeatable."""
    async with asyncio.TaskGroup() as group:
        chaos = group.create_task(_kill_at_random(pool, tally, turns, others))
        workers = [group.create_task(_work(worker, pool, tally, turns)) for worker in range(concurrent)]
        await asyncio.wait(workers, return_when=asyncio.ALL_COMPLETED)
        chaos.cancel()


async def _work(worker: int, pool: Pool, tally: Tally, turns: int) -> None:
    draw = random.Random(f"{SEED} {worker} {turns}")
    while tally.turns < turns:
        async with pool.session([Image.new("RGB", (8, 8))] if draw.random() < 0.2 else []) as session:
            tally.sessions += 1
            await _Watched(session, worker, draw, tally).live(draw.randint(1, 120), turns)


class _Watched:
    """A session, and what is known about it."""

    def __init__(self, session: Session, worker: int, draw: random.Random, tally: Tally) -> None:
        self.session, self.worker, self.draw, self.tally = session, worker, draw, tally
        self.tag = f"session {tally.sessions}"
        self.unsure = False  # whether x may have been set, by a call that ended before it could say so
        self.remembers = False  # whether x was set, and nothing has happened since that ends the state
        self.must_say = False  # whether the next run that starts must say that the session started again
        self.may_say = False  # whether it may
        self.well_since = time.monotonic()  # when the last call began that ended as its cell says

    async def live(self, length: int, turns: int) -> None:
        for _ in range(length):
            if self.tally.turns >= turns:
                return
            self.tally.turns += 1
            name = self.draw.choices(list(CELLS), [weight for _, _, weight in CELLS.values()])[0]
            await self.turn(self.tally.turns, name)

    async def turn(self, turn: int, name: str) -> None:
        body, status, _ = CELLS[name]
        nonce = f"<{self.worker}:{turn}>"
        code = PREFIX.format(nonce=nonce, tag=self.tag) + body.format(turn=turn, worker=self.worker)
        timeout_s = TIMEOUT_S if status is Status.TIMEOUT else LIMITS.wall_s
        started = time.monotonic()
        call = asyncio.create_task(self.session.run(code, timeout_s))
        if name == "cancelled":
            await asyncio.wait([call], timeout=0.05)
            if call.cancel():
                await asyncio.wait([call])
                if call.cancelled():
                    self.tally.cancelled += 1
                    self.lost()
                    return
        done, _ = await asyncio.wait([call], timeout=timeout_s + GRACE_S + RESTART_S)
        assert done, f"{name}: no result after {time.monotonic() - started:.1f} s"
        self.check(call.result(), status, nonce, started, time.monotonic() - started - timeout_s, name, turn)

    def check(self, result: Result, expected: Status, nonce: str, started: float, beyond_s: float, name: str, turn: int) -> None:
        since = [(kill.kind, f"{kill.over - self.well_since:+.3f} s") for kill in list(self.tally.recent)[-8:]]
        what = f"{name}, {nonce}: {result}; kills, since the session was last well: {since}"
        assert isinstance(result, Result), what
        assert isinstance(result.status, Status), what
        self.tally.statuses[result.status.value] += 1
        restarted = STARTED_AGAIN in result.stderr
        self.tally.restarts += restarted

        assert set(NONCE.findall(result.stdout + result.stderr)) <= {nonce}, f"a result of another call: {what}"
        if result.status not in (Status.KILLED, Status.SANDBOX_FAILURE):
            assert result.status is expected, what
            started_late = result.status is Status.TIMEOUT and nonce.startswith(result.stdout)  # the machine is busy
            assert result.stdout.startswith(nonce) or started_late, what
        elif result.status is not expected:
            assert self.was_hit(result.status), f"no kill explains it: {what}"
        if name == "picture" and result.status is Status.OK:
            assert [image.size for image in result.images] == [(turn % 50 + 1, self.worker + 1)], what
        else:
            assert result.images == () or name == "picture", what

        if restarted:
            assert self.must_say or self.may_say or self.was_hit(), f"a restart without a cause: {what}"
            self.remembers, self.unsure, self.must_say, self.may_say = False, False, False, False
        if "\n" in result.stdout:  # else it ended before, or within, its first line
            seen = result.stdout.splitlines()[0].removeprefix(nonce).strip()
            assert seen == (self.tag if self.remembers else "None") or (self.unsure and seen == self.tag), f"a wrong state: {what}"
            assert not self.must_say, f"a restart that was not said: {what}"
            self.remembers, self.unsure, self.may_say = True, False, False
        else:
            self.unsure = not self.remembers
        if result.status in (Status.KILLED, Status.SANDBOX_FAILURE) or LOST in result.stderr:
            self.lost()
        else:
            self.well_since = started

        slow = restarted or result.status is Status.SANDBOX_FAILURE
        assert beyond_s <= GRACE_S + (RESTART_S if slow else 0), f"{beyond_s:.1f} s beyond its timeout: {what}"
        if slow:
            self.tally.beyond_after_a_start_s = max(self.tally.beyond_after_a_start_s, beyond_s)
        else:
            self.tally.beyond_s = max(self.tally.beyond_s, beyond_s)

    def lost(self) -> None:
        """The state is gone. The next run must say so if there was one, and may if it is unknown how far the last call came."""
        self.must_say, self.may_say = self.must_say or self.remembers, True
        self.remembers = self.unsure = False

    def was_hit(self, status: Status | None = None) -> bool:
        """Whether a kill explains that a run ended with `status`, or that the state was gone before it began."""
        return any(
            kill.over >= self.well_since
            and (
                kill.kind in ("zygote", "nsjail")
                or (kill.kind == "slot" and status is Status.SANDBOX_FAILURE)  # it costs only a session that was to start in it
                or (kill.kind in ("interpreter", "init") and kill.session in (self.session, None))
            )
            for kill in self.tally.recent
        )


async def _kill_at_random(pool: Pool, tally: Tally, turns: int, others: set[int]) -> None:
    draw = random.Random(f"{SEED} chaos {turns}")
    at, deck = tally.turns, []
    while True:
        at += draw.expovariate(1 / TURNS_PER_KILL)
        while tally.turns < at:
            await asyncio.sleep(0.002)
        deck = deck or draw.sample(KILLS, len(KILLS))
        kind = deck.pop()
        while not (victims := (found := await asyncio.to_thread(jailed, others))[kind]):
            await asyncio.sleep(0.01)
        await _kill(draw.choice(victims), kind, found["zygote"] if kind == "nsjail" else [], pool, tally)


async def _kill(pid: int, kind: str, falling: list[int], pool: Pool, tally: Tally) -> None:
    """Kills `pid`, and waits until it and `falling`, which fall with it, are dead."""
    with contextlib.ExitStack() as stack:
        try:
            with open(f"/proc/{pid}/stat") as file:
                stat = file.read()
            pidfds = []
            for one in (pid, *falling):
                pidfds.append(os.pidfd_open(one))
                stack.callback(os.close, pidfds[-1])
        except (FileNotFoundError, ProcessLookupError):
            return
        if kind_of(pid) != kind:  # asked again now that the number cannot be used for another process
            return
        # Which session an init belongs to is the only thing here that no public interface tells.
        init = int(stat.rsplit(")", 1)[1].split()[1]) if kind == "interpreter" else pid
        hit = next((one for one in pool._open if one._process is not None and one._process._init.pid == init), None)
        kill = Kill(kind, session=hit)
        tally.recent.append(kill)
        tally.kills[kind] += 1
        signal.pidfd_send_signal(pidfds[0], signal.SIGKILL)
        poll = select.poll()
        for pidfd in pidfds:
            poll.register(pidfd, select.POLLIN)
        while len(poll.poll(0)) < len(pidfds):
            await asyncio.sleep(0.002)
        kill.over = time.monotonic()
