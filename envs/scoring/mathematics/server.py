"""The process that compares expressions. It imports sympy once and forks a child for each comparison, which it can kill.

A comparison has a share of processor time, not of the clock, so that what is right does not depend on the load. Each starts in the
quick lane; the few that use up their time there start again in the slow lane, with more time and a lower priority. So nothing waits
behind endless ones for longer than their quick shares.

One JSON object a line on standard input: `{"id", "answer", "truth"}`, or `{"cancel": id}`. One on standard output for each
comparison: `{"id", "right"}`, null if it was not decided. The process ends with its input, and takes its children with it.
"""

from __future__ import annotations

import collections
import ctypes
import gc
import json
import os
import resource
import selectors
import signal
import sys
from dataclasses import dataclass
from typing import Any, NoReturn

QUICK_S, SLOW_S = 0.5, 5.0
"""Processor time of a comparison in each lane."""
MEMORY_BYTES = 1 << 30
"""Address space of a comparison, beyond what the server has."""
_SLOW_PLACES = 1
_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG, linux/prctl.h

# ANTLR's parser learns from each text, sympy fills caches: children inherit what the server has learned.
_SAMPLES = (
    r"\frac{1}{2}+\sqrt{12}", "(1, 2)", "[1, 2]", "(1, 2]", "[1, 2)", "(1, 2, 3)", r"\{1, 2\}", "1, 2", "1, 2, 3", "x = 1",
    "x=1, x=-2",
    "(x-1)(x+1)", "x^{2}-1", r"x \cdot x - 1", "2x+1", "y = 2x+1", "1 < x", r"-1 \le x < 3", r"2 \pi", r"\frac{\pi}{12}",
    "12^{1/2}", "2^{71}",
    r"\frac{2^{71}}{2}", r"e^{16}-1", r"-1 + \exp (16)", r"\sin x + \cos (2x)", r"\ln 12 + \log_{2} 8", r"3+1i", "11!",
    r"\binom{5}{1}",
    r"\left|x-1\right|", r"(-\infty, 1] \cup (4, 5)", r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\frac{-1 \pm \sqrt{5}}{2}",
    "x/2 + 1.5",
    "3 x^{2} y - 1", r"\sqrt[3]{12}", r"\frac{x+1}{x-1}", "a_{1}+b", r"x \in [1, 2]", r"-\frac{1}{4}", "1x + y + z", "x+x",
)  # fmt: skip


@dataclass(slots=True)
class _Job:
    id: int
    answer: str
    truth: str
    slow: bool = False


def compare(answer: str, truth: str) -> bool:
    """Whether two expressions are equal. Raises any error for what cannot be read."""
    from envs.scoring.mathematics.compare import equal
    from envs.scoring.mathematics.latex import expression

    expected = expression(truth)
    return equal(expression(answer, truth), expected)


class Server:
    """Runs comparisons in children, some in each lane at a time."""

    def __init__(self) -> None:
        self._lanes: dict[bool, collections.deque[_Job]] = {False: collections.deque(), True: collections.deque()}
        self._places = {False: max(2, min(4, os.cpu_count() or 2)), True: _SLOW_PLACES}
        self._running: dict[int, tuple[int, _Job]] = {}  # by the reading end of the child's pipe: its id, and the job
        self._selector = selectors.DefaultSelector()
        self._parent = os.getppid()
        self._rest = b""

    def run(self) -> None:
        """Serve until the input ends or the parent is gone."""
        self._selector.register(0, selectors.EVENT_READ)
        while os.getppid() == self._parent:
            for key, _ in self._selector.select(timeout=5):
                if key.fd == 0:
                    if not self._read():
                        return
                else:
                    self._finish(key.fd)
            self._start()

    def stop(self) -> None:
        for child, _ in self._running.values():
            os.kill(child, signal.SIGKILL)

    def _read(self) -> bool:
        chunk = os.read(0, 1 << 16)
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            record = json.loads(line)
            if "cancel" in record:
                self._cancel(record["cancel"])
            else:
                self._lanes[False].append(_Job(record["id"], record["answer"], record["truth"]))
        return bool(chunk)

    def _cancel(self, number: int) -> None:
        for slow, lane in self._lanes.items():
            self._lanes[slow] = collections.deque(job for job in lane if job.id != number)
        for child, job in self._running.values():
            if job.id == number:
                job.slow = True  # it does not start again
                os.kill(child, signal.SIGKILL)

    def _start(self) -> None:
        for slow, lane in self._lanes.items():
            while lane and sum(job.slow == slow for _, job in self._running.values()) < self._places[slow]:
                job = lane.popleft()
                reading, writing = os.pipe()
                child = os.fork()
                if child == 0:
                    os.close(reading)
                    _work(job, writing)
                os.close(writing)
                self._running[reading] = child, job
                self._selector.register(reading, selectors.EVENT_READ)

    def _finish(self, reading: int) -> None:
        result = os.read(reading, 1)
        self._selector.unregister(reading)
        os.close(reading)
        child, job = self._running.pop(reading)
        _, status = os.waitpid(child, 0)
        if not result and not job.slow and os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGPROF:
            job.slow = True
            self._lanes[True].append(job)
            return
        _say({"id": job.id, "right": {b"1": True, b"0": False}.get(result)})


def _say(record: dict[str, Any]) -> None:
    os.write(1, json.dumps(record).encode() + b"\n")


def _work(job: _Job, writing: int) -> NoReturn:
    """In the child: compare, write one character, and leave without any cleanup of what belongs to the server."""
    try:
        ctypes.CDLL(None).prctl(_DEATH_SIGNAL, signal.SIGKILL)
        os.dup2(os.open(os.devnull, os.O_RDWR), 0)
        os.dup2(0, 1)
        seconds = SLOW_S if job.slow else QUICK_S
        if job.slow:
            os.nice(10)
        with open("/proc/self/statm") as file:
            memory = int(file.read().split()[0]) * resource.getpagesize() + MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.setitimer(signal.ITIMER_PROF, seconds)  # its signal ends the process, inside a long multiplication too
        os.write(writing, b"1" if compare(job.answer, job.truth) else b"0")
    except BaseException:  # sympy may raise any error for any text; what it cannot read is not equal
        os.write(writing, b"0")
    finally:
        os._exit(0)


def main() -> None:
    """Load all that a comparison needs, then serve."""
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signal_number, signal.SIG_IGN)  # the session's; this process ends with its input
    for text in _SAMPLES:
        try:
            compare(text, text.replace("1", "3"))
        except Exception:  # only what the first comparison loads matters
            continue
    gc.freeze()
    server = Server()
    try:
        server.run()
    finally:
        server.stop()
        sys.stdout.flush()
