"""A learner that is killed ends the run with one line that says so, and status 1; what it had written stays to go on with. With the
real command, Ray and verl; the policy's turns are scripted."""

import json
import os
import re
import subprocess
import time

import psutil
import pytest
from command_line import ROOT, TOOLWISE

from rollout.store import Store
from starter.policy import build

SETTINGS = [
    "tasks=rollout_fakes:Fake-v0",
    *(f"task_options.{split}.split=null" for split in ("train", "validation", "test")),
    "rollout.engine.kind=rollout_fakes:ScriptedEngine",
    "rollout.sandboxes_per_worker=0",
    "stages=[rl]",
    "rl.steps=1000",
    "rl.groups=2",
    "rl.group_size=2",
    "rl.checkpoint_every=1",
    "evaluation.episodes=1",
    "tracking.mode=disabled",
    "learner.threads_per_worker=1",
]


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """The directory of a run whose learner was killed in its third step or later, with exit status, output and errors."""
    place = tmp_path_factory.mktemp("killed")
    out, policy = place / "run", build(place / "policy", seed=0)
    process = subprocess.Popen(
        [*TOOLWISE, "train", f"out={out}", f"policy={policy}", *SETTINGS],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests/rollout")))},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 250
        while not (out / "checkpoints/step_2").exists() and time.monotonic() < deadline:
            assert process.poll() is None, process.communicate()
            time.sleep(0.1)
        (learner,) = learners(process.pid)
        learner.kill()
        said, errors = process.communicate(timeout=120)
    finally:
        process.kill()
    return out, process.returncode, said, errors


def learners(pid):
    """The learner's processes below a command's."""
    return [child for child in psutil.Process(pid).children(recursive=True) if "LearnerWorker" in "".join(child.cmdline())]


def test_it_is_one_line_with_the_cause_and_what_to_do(killed):
    _, status, _, errors = killed
    assert status == 1, errors
    lines = errors.strip().splitlines()
    assert len(lines) == 1, errors
    assert re.search(r"LearnerWorker, process \d+ on [\d.]+: it was killed, perhaps because memory ran out", lines[0])
    assert "resume=true goes on" in lines[0]


def test_status_json_has_the_cause_too(killed):
    out, _, _, errors = killed
    status = json.loads((out / "status.json").read_text())
    assert status["state"] == "failed"
    assert status["line"] in errors


def test_checkpoints_and_trajectories_are_there_to_go_on_with(killed):
    out, *_ = killed
    steps = sorted(int(path.name.removeprefix("step_")) for path in (out / "checkpoints").glob("step_*"))
    assert json.loads((out / f"checkpoints/step_{steps[-1]}/state.json").read_text())["step"] == steps[-1]
    store = Store(out)
    assert {f"rl_{step:06d}" for step in range(steps[-1])} <= set(store.names())
    assert [len(list(store.read(f"rl_{step:06d}"))) for step in range(steps[-1])] == [4] * steps[-1]
