"""A learner that is killed ends the run with one line that says so, and status 1; what it had written stays to go on with, on any
number of ranks. With the real command and verl, on the Ray that the tests share; the policy's turns are scripted."""

import json
import math
import os
import re
import subprocess
import time

import psutil
import pytest
import ray
from command_line import ROOT, TOOLWISE

from rollout.learned import read_learned
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


def begin(*settings):
    """A `train` of the checkout that finds the scripts of the policy."""
    places = {"PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests/rollout")))}
    return subprocess.Popen(
        [*TOOLWISE, "train", *settings],
        cwd=ROOT,
        env=os.environ | places | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def killed(cluster, tmp_path_factory):
    """The directory of a run whose learner was killed in its third step or later, with exit status, output and errors."""
    place = tmp_path_factory.mktemp("killed")
    out, policy = place / "run", build(place / "policy", seed=0)
    process = begin(f"out={out}", f"policy={policy}", *SETTINGS)
    try:
        deadline = time.monotonic() + 250
        while not (out / "checkpoints/step_2").exists() and time.monotonic() < deadline:
            assert process.poll() is None, process.communicate()
            time.sleep(0.1)
        (learner,) = learners()
        learner.kill()
        said, errors = process.communicate(timeout=120)
    finally:
        process.kill()
    return out, process.returncode, said, errors


def learners():
    """The learner's processes on the Ray that this process started."""
    return [child for child in psutil.Process().children(recursive=True) if "LearnerWorker" in "".join(child.cmdline())]


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


def steps_of(out):
    """The steps of RL that have a checkpoint."""
    return sorted(int(path.name.removeprefix("step_")) for path in (out / "checkpoints").glob("step_*"))


def test_checkpoints_and_trajectories_are_there_to_go_on_with(killed):
    out, *_ = killed
    steps = steps_of(out)
    assert json.loads((out / f"checkpoints/step_{steps[-1]}/state.json").read_text())["step"] == steps[-1]
    store = Store(out)
    assert {f"rl_{step:06d}" for step in range(steps[-1])} <= set(store.names())
    assert [len(list(store.read(f"rl_{step:06d}"))) for step in range(steps[-1])] == [4] * steps[-1]
    assert all(len(list(read_learned(out, f"rl_{step:06d}"))) == 4 for step in range(steps[-1]))


@pytest.mark.slow
def test_it_goes_on_with_another_number_of_ranks(killed):
    out, *_ = killed
    done = steps_of(out)[-1]
    process = begin(f"out={out}", "resume=true", "learner.workers=2", f"rl.steps={done + 1}")
    said, errors = process.communicate(timeout=280)
    assert process.returncode == 0, said + errors
    assert f"RL goes on from step {done}" in said
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(done + 1))
    assert all(math.isfinite(line["actor/grad_norm"]) for line in lines)
    assert steps_of(out)[-1] == done + 1
    assert {one.episode_id for one in read_learned(out, f"rl_{done:06d}")} == {
        f"rl-{done}-{n}" for n in ("0-0", "0-1", "1-0", "1-1")
    }
