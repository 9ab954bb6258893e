"""A synthesis that is killed at random points, ten times over, loses no reply and asks nothing twice; SIGTERM closes it."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections import Counter

import pytest
import synthesis_school
from command_line import ROOT
from openai_server import Server
from synthesis_school import rows, teach, write_sums

KILLS, QUESTIONS = 10, 12
SETTINGS = ["+teachers.gpt.concurrent=3", "+teachers.gpt.attempts=1", "resume=true"]


class Gate:
    """A teacher who replies so many times and then is silent, until it is opened again."""

    def __init__(self):
        self._lock, self.left, self.shut = threading.Lock(), 0, threading.Event()

    def open(self, replies):
        self.left, self.shut = replies, threading.Event()

    def __call__(self, body):
        with self._lock:
            self.left -= 1
            left, shut = self.left, self.shut
        if left < 0:
            shut.wait(120)
            return None
        return teach(body)


@pytest.fixture
def forks():
    """Starts syntheses in processes of their own, which cost milliseconds: `forks(place, settings, url)` gives the process id."""
    paths = [str(ROOT), *(str(ROOT / "tests" / name) for name in ("", "rollout", "curation"))]
    process = subprocess.Popen(
        [sys.executable, synthesis_school.__file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
    )
    assert process.stdin and process.stdout

    def start(place, settings, url):
        process.stdin.write(json.dumps([str(place), settings, {"gpt": url}]) + "\n")
        process.stdin.flush()
        return int(process.stdout.readline())

    start.ended = lambda: int(process.stdout.readline())
    yield start
    process.stdin.close()
    process.wait(60)


def journaled(place):
    path = place / "out/journal/replies.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def until(condition):
    for _ in range(6000):
        if condition():
            return
        threading.Event().wait(0.01)
    raise AssertionError("it did not happen within a minute")


def test_killed_at_random_points_it_loses_nothing_and_asks_nothing_twice(tmp_path, forks):
    write_sums(tmp_path / "sums.jsonl", *["right"] * QUESTIONS)
    gate, chance, lost = Gate(), random.Random(0), 0
    server = Server(gate)
    for kill in range(KILLS):
        replies = chance.randint(1, 3)
        before, seen = len(server.answered), len(server.requests)
        gate.open(replies)
        pid = forks(tmp_path, SETTINGS, server.url)
        until(lambda seen=seen, replies=replies: len(server.requests) - seen > replies)
        until(lambda before=before, replies=replies: len(server.answered) - before == replies)
        if kill % 2:  # else what was sent may not have been read
            until(lambda lost=lost: journaled(tmp_path) == len(server.answered) - lost)
        os.kill(pid, signal.SIGKILL)
        assert forks.ended() == signal.SIGKILL
        lost = len(server.answered) - journaled(tmp_path)
        # What it had sent is not to take the replies of the next one.
        gate.shut.set()
        gate.open(0)
        gate.shut.set()
        server.settle()
    gate.open(1000)
    forks(tmp_path, SETTINGS, server.url)
    assert forks.ended() == 0
    assert sorted(row["metadata"]["answer"] for row in rows(tmp_path)) == sorted(str(number + 5) for number in range(QUESTIONS))
    counts = Counter(json.dumps(body, sort_keys=True) for body in server.answered)
    assert len(counts) == 2 * QUESTIONS == journaled(tmp_path)
    assert sum(counts.values()) - len(counts) == lost, "only what was under way was asked again"
    server.close()


def test_sigterm_closes_it_and_what_there_is_can_be_used(tmp_path, forks):
    write_sums(tmp_path / "sums.jsonl", *["direct"] * 4)
    gate = Gate()
    server = Server(gate)
    gate.open(2)
    pid = forks(tmp_path, SETTINGS, server.url)
    until(lambda: (tmp_path / "out/journal/attempts.jsonl").exists())
    until(lambda: (tmp_path / "out/journal/attempts.jsonl").read_bytes().count(b"\n") == 2)
    os.kill(pid, signal.SIGTERM)
    assert os.waitstatus_to_exitcode(forks.ended()) == 130
    gate.shut.set()
    assert len(rows(tmp_path)) == 2
    report = json.loads((tmp_path / "out/synthesis.json").read_text())
    assert (report["all"]["asked"], report["not_asked"]) == (2, 2)
    assert "resume=true" in report["stopped"]
    server.close()
