"""Fuzz: random cells, and random bytes on our own wire. The host never raises, no result is forged, the next run works.

The jailed half attacks the real jail through the public interface. The last two tests feed the host's parser of frames directly,
many times faster.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import gc
import itertools
import os
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sandbox_cells import cells, endings, frames, streams
from sandbox_census import report

from sandbox import Limits, Pool, Result, SandboxUnavailable, Session, Status
from sandbox.host import jail
from sandbox.jailed import wire
from sandbox.process import Ending, Process

# (short, whole)
CELLS = (60, 10_000)
WIRE = (40, 10_000)
PARSER = (500, 20_000)

LIMITS = Limits(
    wall_s=0.4, cpu_s=2, memory_bytes=200 << 20, pids=12, disk_bytes=4 << 20, output_bytes=10_000, images=3, image_side=256
)
TYPED = set(Status) - {Status.SANDBOX_FAILURE}  # whatever code does is its own doing


class Jailed:
    """A pool with two sessions, one to attack with and one that must notice nothing, for tests that are not coroutines."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(lambda _, context: self.raised.append(context))
        self._stack = contextlib.AsyncExitStack()
        self._own = contextlib.AsyncExitStack()
        self.raised: list[dict[str, Any]] = []
        self.statuses: collections.Counter[str] = collections.Counter()
        self.reopened = 0
        self.longest_s = 0.0

    def open(self) -> None:
        self.pool = self._wait(self._stack.enter_async_context(Pool(LIMITS, size=2)))
        self.witness: Session = self._wait(self._stack.enter_async_context(self.pool.session()))
        self.attacker: Session = self._wait(self._own.enter_async_context(self.pool.session()))
        self._wait(self.witness.run("witness = 'unmoved'"))
        self._wait(self.attacker.run("1"))

    def reopen(self) -> None:
        """A new session to attack with: code may do to its own as it likes."""
        self.reopened += 1
        self._wait(self._own.aclose())
        self.attacker = self._wait(self._own.enter_async_context(self.pool.session()))

    def run(self, code: str) -> Result:
        started = time.monotonic()
        result = self._wait(self.attacker.run(code))
        self.longest_s = max(self.longest_s, time.monotonic() - started)
        assert type(result) is Result
        assert type(result.status) is Status
        self.statuses[result.status.value] += 1
        assert result.status in TYPED, result
        assert len(result.stdout) <= LIMITS.output_bytes
        assert len(result.images) <= LIMITS.images
        assert self.raised == []
        return result

    def check_next(self) -> None:
        """The session answers, or else code has broken its own interpreter, and a new session answers."""
        for _ in range(2):
            nonce = os.urandom(8).hex()
            result = self.run(f"print({nonce!r})")
            if result.status is Status.OK and result.stdout == f"{nonce}\n":
                return
            self.reopen()
        pytest.fail(f"a fresh session does not answer: {result}")

    def check_witness(self) -> None:
        result = self._wait(self.witness.run("witness"))
        assert (result.status, result.stdout, result.stderr) == (Status.OK, "'unmoved'\n", "")

    def close(self) -> None:
        self._wait(self._own.aclose())
        self._wait(self._stack.aclose())
        self._wait(self._loop.shutdown_default_executor())
        self._loop.close()

    def _wait[T](self, work: Any) -> Any:
        return self._loop.run_until_complete(asyncio.wait_for(work, 60))


@pytest.fixture
def jailed() -> Iterator[Jailed]:
    jailed = Jailed()
    try:
        jailed.open()
    except SandboxUnavailable as reason:
        pytest.skip(str(reason))
    yield jailed
    jailed.close()


def fuzz(examples: int, check: Callable[..., None], **arguments: st.SearchStrategy[Any]) -> int:
    """Repeatable: the same examples each time. Returns how many were tried."""
    tried = 0

    @settings(max_examples=examples, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(**arguments)
    def example(**drawn: Any) -> None:
        nonlocal tried
        tried += 1
        check(**drawn)

    example()
    return tried


def test_random_cells(whole: bool, jailed: Jailed, capsys: pytest.CaptureFixture[str]) -> None:
    def check(code: str) -> None:
        jailed.run(code)
        jailed.check_next()
        jailed.check_witness()

    tried = fuzz(CELLS[whole], check, code=cells())
    report(
        capsys,
        f"{tried} random cells",
        statuses=dict(jailed.statuses),
        sessions_that_code_had_spoilt=jailed.reopened,
        longest_call_s=f"{jailed.longest_s:.2f}",
    )


SENDERS = {
    "the cell": "send(data)",
    "in pieces": "for at in range(0, len(data), 7): send(data[at:at + 7])",
    "a thread beside it": "import threading\nthreading.Thread(target=lambda: [send(data) for _ in range(3)]).start()",
    "a child that lives on": "if os.fork() == 0:\n    send(data)\n    time.sleep(0.01)\n    send(data)\n    os._exit(0)",
    "another descriptor of it": "import socket\nwith socket.socket(fileno=os.dup(3)) as s: s.sendall(data)",
}
SEND = """
import os, time
print({before!r})
data = bytes.fromhex({data!r})
def send(data):
    while data: data = data[os.write(3, data):]
{sender}
{ending}
print({after!r})
"""


def test_random_bytes_on_the_wire(whole: bool, jailed: Jailed, capsys: pytest.CaptureFixture[str]) -> None:
    gc.collect()  # what earlier tests left open would be closed at any moment
    descriptors = len(os.listdir("/proc/self/fd"))

    def check(data: bytes, sender: str, ending: tuple[str, Status]) -> None:
        before, after = os.urandom(8).hex(), os.urandom(8).hex()
        code, honest = ending
        result = jailed.run(SEND.format(before=before, data=data.hex(), sender=SENDERS[sender], ending=code, after=after))
        if result.status is Status.OK:
            assert honest is Status.OK, f"a forged result: {result}"
            assert result.stdout == f"{before}\n{after}\n"
        assert result.status in (honest, Status.KILLED, Status.TIMEOUT), result
        jailed.check_next()
        jailed.check_witness()

    tried = fuzz(WIRE[whole], check, data=streams(), sender=st.sampled_from(sorted(SENDERS)), ending=endings())
    for _ in range(100):  # a session that is being opened in the background has one more for a moment
        if len(os.listdir("/proc/self/fd")) <= descriptors:
            break
        time.sleep(0.1)
    assert len(os.listdir("/proc/self/fd")) <= descriptors
    report(
        capsys,
        f"{tried} random byte strings written to the wire in the jail",
        statuses=dict(jailed.statuses),
        sessions_reopened=jailed.reopened,
        longest_call_s=f"{jailed.longest_s:.2f}",
    )


@pytest.fixture
def bystander() -> Iterator[int]:
    """A real process in the place of a session's init, which the parser of frames has no business with."""
    process = subprocess.Popen(["sleep", "600"])
    yield process.pid
    process.kill()
    process.wait()


class Parser:
    """The host's side of one session, with this test in the place of the jail."""

    def __init__(self, bystander: int) -> None:
        self._loop = asyncio.new_event_loop()
        self._bystander = bystander
        self.raised: list[dict[str, Any]] = []
        self._loop.set_exception_handler(lambda _, context: self.raised.append(context))

    def feed(self, chunks: Sequence[bytes], token: bytes) -> Ending:
        return self._loop.run_until_complete(self._feed(chunks, token))

    async def _feed(self, chunks: Sequence[bytes], token: bytes) -> Ending:
        with contextlib.ExitStack() as stack:
            channel, theirs = jail.control_pair()
            peer = jail.Peer(channel, self._bystander)
            cell, writer = socket.socketpair()
            (stdout, stdout_writer), (stderr, stderr_writer) = os.pipe(), os.pipe()
            for fd in (stdout, stderr, stdout_writer, stderr_writer):
                stack.callback(os.close, fd)
            for end in (peer, theirs, cell, writer):
                stack.callback(end.close)
            for fd in (cell.fileno(), stdout, stderr):
                os.set_blocking(fd, False)
            process = Process(LIMITS, peer, cell, stdout, stderr)
            for readable in (channel, cell, stdout, stderr):
                stack.callback(self._loop.remove_reader, readable)
            turn = await process.begin(1, "", 1.0)
            turn.token = token
            for chunk in chunks:
                with contextlib.suppress(BlockingIOError):
                    writer.sendall(chunk)
                while process._read_cell():
                    pass
            return await process.wait(0)

    def close(self) -> None:
        self._loop.close()


@pytest.fixture
def parser(bystander: int) -> Iterator[Parser]:
    parser = Parser(bystander)
    yield parser
    parser.close()


TOKEN = bytes(range(100, 100 + wire.TOKEN_BYTES))


def _cut(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[start:end] for start, end in itertools.pairwise(places)]


def test_random_bytes_to_the_parser(whole: bool, parser: Parser, capsys: pytest.CaptureFixture[str]) -> None:
    ends: collections.Counter[str] = collections.Counter()

    def check(data: bytes, cuts: list[int], others: list[int]) -> None:
        ending = parser.feed(_cut(data, cuts), TOKEN)
        assert parser.raised == []
        if ending.outcome:
            done = wire.HEADER.pack(wire.DONE, wire.TOKEN_BYTES + 1) + TOKEN + ending.outcome
            assert done in data, "nobody said that the run was done"
        assert parser.feed(_cut(data, others), TOKEN) == ending, "how the bytes were cut decides"
        ends["done" if ending.outcome else "forged" if ending.forged else "waits"] += 1

    cuts = st.lists(st.integers(0, 1 << 16), max_size=12)
    tried = fuzz(PARSER[whole], check, data=streams(TOKEN), cuts=cuts, others=cuts)
    report(capsys, f"{tried} random byte strings to the host's parser, each cut in two ways", endings=dict(ends))


def test_the_parser_finds_the_end_among_valid_frames(whole: bool, parser: Parser, capsys: pytest.CaptureFixture[str]) -> None:
    def check(noise: list[bytes], outcome: bytes, cuts: list[int]) -> None:
        done = struct.pack("<cI", wire.DONE, wire.TOKEN_BYTES + 1) + TOKEN + outcome
        ending = parser.feed(_cut(b"".join(noise) + done, cuts), TOKEN)
        assert parser.raised == []
        assert ending == Ending(outcome=outcome)

    outcomes = st.sampled_from([wire.OUTCOME_OK, wire.OUTCOME_EXCEPTION, wire.OUTCOME_MEMORY, wire.OUTCOME_INTERRUPTED])
    cuts = st.lists(st.integers(0, 1 << 16), max_size=12)
    tried = fuzz(PARSER[whole], check, noise=st.lists(frames(), max_size=6), outcome=outcomes, cuts=cuts)
    report(capsys, f"{tried} streams of valid frames to the host's parser")
