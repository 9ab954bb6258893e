"""The main job on real parts: a short cold start, two RL steps and the control, with vLLM, verl, nsjail, Ray and W&B offline.

The offline W&B run is read back, and per step and ability its tool-call frequency, mean and variances equal what NumPy computes
from the trajectory files; learner and sampler agree on log-probabilities after every weight update; a run killed with SIGKILL goes
on from its checkpoint; checkpoints load as Hugging Face models.
"""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
COLD_STEPS = 40
SETTINGS = [
    "tracking.mode=offline",
    "stages=[cold_start,rl,control]",
    "cold_start.demonstrations=48",
    "cold_start.rehearsal=64",
    f"cold_start.max_steps={COLD_STEPS}",
    f"cold_start.evaluate_every={COLD_STEPS // 2}",
    "cold_start.validation_episodes=16",
    "rl.groups=6",
    "rl.group_size=4",
    "rl.checkpoint_every=1",
    "evaluation.episodes=12",
]


def command(out, steps, *more):
    return [sys.executable, str(ROOT / "toolwise.py"), "train", f"out={out}", f"rl.steps={steps}", *SETTINGS, *more]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "first"
    result = subprocess.run(command(out, 2), cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert result.returncode == 0, result.stdout + result.stderr
    return out


def metrics(out, stage="rl"):
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if stage in (None, line["stage"])]


def trajectories(out, step):
    return [json.loads(line) for line in (out / f"trajectories/rl_{step:06d}.jsonl").read_text().splitlines()]


def offline_history(out):
    """The history records of the offline W&B run, through W&B's own reader."""
    (run,) = (out / "wandb").glob("offline-run-*/run-*.wandb")
    wandb = Path(sys.executable).with_name("wandb")
    text = subprocess.run([wandb, "leet", "inspect", "--json", str(run)], capture_output=True, text=True, check=True).stdout
    records = [json.loads(line) for line in text.splitlines()]
    return [record["history"]["item"] for record in records if "history" in record]


def group_variances(records):
    """Within and between groups, population variances."""
    groups = {}
    for record in records:
        groups.setdefault(record["group_id"], []).append(calls(record))
    counts = np.concatenate([np.array(group, float) for group in groups.values()])
    within = sum(len(group) * np.var(group) for group in groups.values()) / len(counts)
    between = sum(len(group) * (np.mean(group) - counts.mean()) ** 2 for group in groups.values()) / len(counts)
    return within, between


def calls(record):
    return sum(turn["tool"] is not None for turn in record["turns"])


@pytest.mark.parametrize("step", [0, 1])
def test_wandb_holds_what_numpy_computes_from_the_trajectories(finished, step):
    (logged,) = [row for row in offline_history(finished) if (row["stage"], row["step"]) == ("rl", step)]
    records = trajectories(finished, step)
    assert len(records) == 24
    assert sum(map(calls, records)) > 0, "the cold start taught no tool call: there is nothing to compare"
    for prefix, chosen in [
        ("", records),
        *((f"ability/{name}/", [r for r in records if r["ability"] == name]) for name in {r["ability"] for r in records}),
    ]:
        counts = np.array([calls(record) for record in chosen], float)
        within, between = group_variances(chosen)
        expected = {
            "tools/calls_per_episode/mean": counts.mean(),
            "tools/code/frequency": np.mean(counts > 0),
            "tools/calls_per_episode/var": counts.var(),
            "tools/variance/within_group": within,
            "tools/variance/between_group": between,
        }
        for name, value in expected.items():
            assert logged[prefix + name] == pytest.approx(value, abs=1e-9), prefix + name


def test_metrics_file_and_wandb_agree(finished):
    for line, logged in zip(metrics(finished, None), offline_history(finished), strict=True):
        assert all(logged[name] == pytest.approx(value) for name, value in line.items() if isinstance(value, int | float))


def test_learner_and_sampler_agree_after_every_update(finished):
    gaps = [line["rollout/logprob_gap"] for line in metrics(finished)]
    assert len(gaps) == 2
    assert max(gaps) <= 1e-3


@pytest.mark.slow
def test_in_bfloat16_learner_and_sampler_differ_by_rounding_alone(tmp_path):
    out = tmp_path / "bfloat16"
    more = ("stages=[rl]", "rollout.engine.dtype=bfloat16", "learner.precision=bfloat16")
    result = subprocess.run(command(out, 2, *more), cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert result.returncode == 0, result.stdout + result.stderr
    gaps = [line["rollout/logprob_gap"] for line in metrics(out)]
    assert min(gaps) > 1e-4, "this is float32"
    assert max(gaps) <= 0.03


def test_the_timing_split_is_logged(finished):
    for line in metrics(finished):
        assert all(line[f"timing_s/{part}"] >= 0 for part in ("rollout", "generate", "tool", "learn", "sync", "step"))


def test_trajectories_keep_the_contract(finished):
    from rollout.store import lint

    assert not lint(finished / "trajectories")


def test_the_second_step_is_sampled_by_the_updated_policy(finished):
    versions = [{v for record in trajectories(finished, step) for v in record["versions"] if v >= 0} for step in (0, 1)]
    assert versions == [{COLD_STEPS}, {COLD_STEPS + 1}]


def test_evaluation_records_follow_the_contract(finished):
    records = json.loads((finished / "evaluation.json").read_text())
    assert [record["label"] for record in records] == ["base", "cold_start", "rl", "control"]
    for record in records:
        assert record["episodes"] == 12
        assert {
            "accuracy",
            "ci95",
            "calls_per_episode",
            "by_ability",
            "by_need",
            "policy",
            "tasks",
            "seed",
            "temperature",
        } <= record.keys()


def test_a_checkpoint_loads_as_a_hugging_face_model(finished):
    from transformers import AutoModelForImageTextToText, AutoProcessor

    policy = finished / "checkpoints/step_2/policy"
    AutoProcessor.from_pretrained(policy)
    assert AutoModelForImageTextToText.from_pretrained(policy).num_parameters() > 0


def test_a_killed_run_resumes_and_reaches_the_same_state(finished, tmp_path):
    """Tasks, batches, optimizer and weights are repeated exactly; sampled tokens up to rounding of the engine's batches."""
    out, more = tmp_path / "killed", "stages=[cold_start,rl]"
    process = subprocess.Popen(command(out, 2, more), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 200
        while not (out / "checkpoints/step_1").exists() and time.monotonic() < deadline:
            time.sleep(0.2)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert (out / "checkpoints/step_1").exists()
    result = subprocess.run(command(out, 2, more, "resume=true"), cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert result.returncode == 0, result.stdout + result.stderr
    steps = [(line["stage"], line["step"]) for line in metrics(out, None)]
    assert steps == [*(("cold_start", step) for step in range(COLD_STEPS)), ("rl", 0), ("rl", 1)]
    whole, resumed = metrics(finished), metrics(out)
    for name in ("critic/score/mean", "tools/calls_per_episode/mean", "response_length/mean", "actor/grad_norm"):
        assert resumed[1][name] == pytest.approx(whole[1][name], rel=1e-3), name
