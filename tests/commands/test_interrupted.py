"""A long evaluation loses nothing: what was answered before SIGTERM is on disk, `resume=true` asks only the rest, and a question
that the endpoint refuses is one named outcome among the others. With the real command, against a server on loopback, on the
Ray that the tests share."""

import json
import os
import re
import signal
import subprocess
import threading

import pytest
import ray
from command_line import ROOT, TOOLWISE, run_here
from openai_server import Server

COUNT = 9
SLOW, REFUSED = 7, 3


@pytest.fixture(scope="module")
def interrupted(cluster, tmp_path_factory):
    """A command that was ended amid its work: its directory, exit status, what it said, and the numbers that were asked."""
    place = tmp_path_factory.mktemp("interrupted")
    rows = [{"question": f"What is {number} + 5?", "answer": str(number + 5)} for number in range(COUNT)]
    (place / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked, gate = [], threading.Event()

    def reply(body):
        number = int(re.search(r"What is (\d+)", json.dumps(body["messages"][-1])).group(1))
        asked.append(number)
        if number == SLOW:
            gate.wait(120)
        if number == REFUSED:
            return 400, {"message": "filtered by the content management policy", "code": "content_filter"}
        return f"<answer>{number + 5}</answer>"

    server = Server(reply)
    settings = [f"tasks={place / 'q.jsonl'}", f"policy={server.url}", "policy_model=m", f"out={place / 'run'}"]
    process = subprocess.Popen(
        [*TOOLWISE, "evaluate", *settings],
        cwd=ROOT,
        env=os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    episodes = place / "run/trajectories/episodes.jsonl"
    try:
        for _ in range(1200):
            if SLOW in asked and episodes.exists() and episodes.read_bytes().count(b"\n") == COUNT - 1:
                break
            assert process.poll() is None, process.communicate()
            threading.Event().wait(0.1)
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=60)[1]
    finally:
        process.kill()
    gate.set()
    yield place, process.returncode, said, asked
    server.close()


def test_what_was_answered_is_on_disk(interrupted):
    place, status, said, asked = interrupted
    assert (status, sorted(asked)) == (130, list(range(COUNT)))
    assert "resume=true" in said.splitlines()[-1]
    records = [json.loads(line) for line in (place / "run/trajectories/episodes.jsonl").read_text().splitlines()]
    assert len(records) == COUNT - 1


def test_the_rest_is_asked_and_the_refused_question_is_named(interrupted):
    place, _, _, asked = interrupted
    del asked[:]
    result = run_here("evaluate", f"out={place / 'run'}", "resume=true")
    assert asked == [SLOW]
    (record,) = json.loads((place / "run/evaluation.json").read_text())
    assert (record["episodes"], record["accuracy"], record["left_out"], record["unplayed"]) == (COUNT, 8 / 9, 0, 1)
    assert record["problems"][0]["task"] == f"q-{REFUSED + 1}"
    assert "content management policy" in record["problems"][0]["reason"]
    assert result.returncode == 1  # of nine questions, one is more than a tenth
    assert "warning: " in result.stdout and "not played" in result.stdout
