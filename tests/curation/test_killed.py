"""A `curate` that is killed at any point loses nothing and asks nothing twice but what was under way; and what it writes in the end
is what one that was never killed writes."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pyarrow.parquet
import pytest
from command_line import ROOT, TOOLWISE
from openai_server import Server

QUESTIONS, SAMPLES = 6, 4
KILLS, REAL_KILLS = 6, 10


class Asked:
    """A server that counts what it is asked, and kills who asks at the count it is told, before or after it answers."""

    def __init__(self):
        self.counts, self.without = Counter(), []
        self.kill_at, self.pid, self.answers = None, None, True
        self.server = Server(self.reply)

    def reply(self, body):
        name = body["episode"]
        self.without.append(sorted(body["without"]))
        self.counts[name] += 1
        if self.kill_at == self.counts.total():
            if self.answers:  # the episode may or may not be on disk by then
                threading.Timer(0.002, os.kill, (self.pid, signal.SIGKILL)).start()
            else:
                os.kill(self.pid, signal.SIGKILL)
        group, sample = (int(number) for number in re.findall(r"\d+", name)[-2:])
        right = sample < group if "without" in name else group % 2
        return "right" if right else "wrong"


@pytest.fixture(scope="module")
def process():
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests")))}
    started = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("curate_process.py"))],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    yield started
    started.stdin.close()
    started.wait(60)


def curate(process, asked, out, *more, kill_at=None):
    """Run it once, with `more` settings; its wait status."""
    settings = [f"out={out}", "tasks=toolwise/Reasoning-v0", f"episodes={QUESTIONS}", f"group_size={SAMPLES}"]
    endpoint = [f"policy={asked.server.url}", "policy_model=m", "resume=true"]
    asked.kill_at = None
    process.stdin.write(json.dumps([*settings, *endpoint, *more]) + "\n")
    process.stdin.flush()
    asked.pid = json.loads(process.stdout.readline())
    asked.kill_at = kill_at
    return json.loads(process.stdout.readline())


def sets(out):
    return {name: pyarrow.parquet.read_table(out / f"{name}.parquet").to_pylist() for name in ("rl", "cold_start", "dropped")}


def test_killed_at_many_points_it_asks_nothing_twice_and_ends_the_same(process, tmp_path):
    rng, asked, killed = random.Random(0), Asked(), 0
    for kill in range(KILLS):
        asked.answers = bool(kill % 2)
        status = curate(process, asked, tmp_path / "killed", kill_at=asked.counts.total() + rng.randint(1, 6))
        killed += os.WIFSIGNALED(status)
    assert killed == KILLS
    assert curate(process, asked, tmp_path / "killed") == 0
    total = 2 * QUESTIONS * SAMPLES
    assert len(asked.counts) == total
    assert sum(count - 1 for count in asked.counts.values()) <= KILLS, "only what was under way when it was killed"
    asked.counts.clear()
    assert curate(process, asked, tmp_path / "killed") == 0
    assert not asked.counts, "all is on disk"
    assert curate(process, asked, tmp_path / "whole") == 0
    assert asked.counts.total() == total
    assert sets(tmp_path / "killed") == sets(tmp_path / "whole")
    assert (tmp_path / "killed/curation.json").read_text() == (tmp_path / "whole/curation.json").read_text()
    assert {name: len(rows) for name, rows in sets(tmp_path / "whole").items()} == {"rl": 1, "cold_start": 1, "dropped": 4}
    asked.server.close()


def test_a_tool_that_was_taken_away_before_stays_away(process, tmp_path):
    asked = Asked()
    mixture = ["tasks=toolwise/Mixture-v0", "+options.without=[code]", "episodes=1", "group_size=1"]
    assert curate(process, asked, tmp_path / "run", *mixture) == 0
    assert sorted(map(tuple, asked.without)) == [("code",), ("code", "image_search", "text_search")]
    asked.server.close()


def test_easy_questions_may_be_left_unasked_and_other_settings_ask_nothing_anew(process, tmp_path):
    asked, out = Asked(), tmp_path / "run"
    assert curate(process, asked, out, "ask_easy=false") == 0
    hard = 2  # of six questions, of which number n is right n times of four without tools: 0 and 1
    assert asked.counts.total() == (QUESTIONS + hard) * SAMPLES
    report = json.loads((out / "curation.json").read_text())
    assert (report["not_asked_with_tools"], report["answers"]["with_tools"]["answered"]) == (QUESTIONS - hard, hard * SAMPLES)
    found = sets(out)
    asked.counts.clear()
    assert curate(process, asked, out, "ask_easy=true", "thresholds.max_pass_rate_without=0") == 0
    assert asked.counts.total() == (QUESTIONS - hard) * SAMPLES
    assert {name: len(rows) for name, rows in sets(out).items()} == {"rl": 0, "cold_start": 1, "dropped": 5}
    asked.counts.clear()
    assert curate(process, asked, out, "ask_easy=false") == 0
    assert not asked.counts
    again = sets(out)
    assert (again["rl"], again["cold_start"]) == (found["rl"], found["cold_start"])
    assert all(row["num_with"] == SAMPLES for row in again["dropped"]), "what was asked before is not forgotten"
    asked.server.close()


@pytest.mark.slow
def test_the_real_command_on_ray_killed_at_many_points(tmp_path):
    """The same with Ray, a file of questions and an endpoint that solves every other question if it has tools."""
    rows = [{"question": f"What is {number} + 5?", "answer": str(number + 5)} for number in range(QUESTIONS)]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked, lock = Counter(), threading.Lock()

    def reply(body):
        number = int(re.search(r"What is (\d+)", json.dumps(body["messages"])).group(1))
        with lock:
            asked[number, body["seed"], "tools" in body] += 1
        time.sleep(0.3)
        return str(number + 5) if number % 2 and "tools" in body else "0"

    server, out, rng = Server(reply), tmp_path / "run", random.Random(0)
    settings = [f"tasks={tmp_path / 'q.jsonl'}", f"policy={server.url}", "policy_model=m", f"out={out}", "resume=true"]
    settings += [f"group_size={SAMPLES}", "+options.protocol=native", "rollout.workers=1", "rollout.episodes_per_worker=2"]
    recorded = 0
    for _ in range(REAL_KILLS):
        process = subprocess.Popen([*TOOLWISE, "curate", *settings], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        goal = recorded + rng.randint(1, 5)
        while process.poll() is None and recorded < goal:
            time.sleep(rng.random() / 10)
            recorded = sum(path.read_bytes().count(b"\n") for path in (out / "trajectories").glob("*.jsonl"))
        process.kill()
        process.communicate()
    assert subprocess.run([*TOOLWISE, "curate", *settings], cwd=ROOT, capture_output=True).returncode == 0
    assert len(asked) == 2 * QUESTIONS * SAMPLES
    assert asked.total() <= 2 * QUESTIONS * SAMPLES + 2 * REAL_KILLS, "at most two were under way whenever it was killed"
    assert json.loads((out / "curation.json").read_text())["sets"] == {"rl": 3, "cold_start": 3, "dropped": 0}
    server.close()
