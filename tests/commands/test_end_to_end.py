"""The main job on real parts: a short cold start, RL steps and the control, with vLLM, verl, nsjail, Ray and W&B offline. It is
killed with SIGKILL amid RL and resumed.

The offline W&B run is read back, and per step and ability its tool-call frequency, mean and variances equal what NumPy computes
from the trajectory files; learner and sampler agree on log-probabilities after every weight update; what the resumed run repeats
equals what the killed one had done; checkpoints load as Hugging Face models.
"""

import json
import os
import signal
import subprocess
import sys
import time
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
import ray
import torch
from command_line import run_here

pytestmark = pytest.mark.timeout(600)  # the fixture's run and its repetition count as part of the first test

ROOT = Path(__file__).parents[2]
COLD_STEPS = 32
# Killed in the last step, it goes on from the checkpoint before the step that it had finished, and so repeats that one.
STEPS, CHECKPOINT_EVERY = 4, 2
SETTINGS = [
    "tracking.mode=offline",
    "stages=[cold_start,rl,control]",
    "cold_start.demonstrations=48",
    "cold_start.rehearsal=32",
    f"cold_start.max_steps={COLD_STEPS}",
    f"cold_start.evaluate_every={COLD_STEPS // 2}",
    "cold_start.validation_episodes=16",
    "rl.groups=6",
    "rl.group_size=4",
    f"rl.checkpoint_every={CHECKPOINT_EVERY}",
    "evaluation.episodes=12",
    "rollout.engine.cpu_cache_gib=0.125",
]


def command(out, steps, *more):
    return [sys.executable, str(ROOT / "toolwise.py"), "train", f"out={out}", f"rl.steps={steps}", *SETTINGS, *more]


@pytest.fixture(scope="module")
def interrupted(cluster, tmp_path_factory):
    """The directory of a run that was killed in its last step and resumed, and the metrics that it had when it was killed. Both
    run on the Ray that the tests share."""
    out = tmp_path_factory.mktemp("run") / "first"
    environment = os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    process = subprocess.Popen(command(out, STEPS), cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 280
        while len(before := metrics(out)) < STEPS - 1 and time.monotonic() < deadline:
            assert process.poll() is None, f"it ended by itself with status {process.returncode}"
            time.sleep(0.1)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert len(before) == STEPS - 1
    result = run_here("train", f"out={out}", f"rl.steps={STEPS}", *SETTINGS, "resume=true")
    assert result.returncode == 0, result.stdout + result.stderr
    return out, before


@pytest.fixture(scope="module")
def finished(interrupted):
    return interrupted[0]


def metrics(out, stage="rl"):
    path = out / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [line for line in lines if stage in (None, line["stage"])]


def trajectories(out, step):
    """The records of a step, from the shards of all workers."""
    shards = sorted((out / "trajectories").glob(f"rl_{step:06d}.*jsonl"))
    return [json.loads(line) for path in shards for line in path.read_text().splitlines()]


def offline_history(out):
    """The history of the offline W&B run, through W&B's own reader, by stage and step: of what was repeated, the last."""
    wandb = Path(sys.executable).with_name("wandb")
    history = {}
    for run in sorted((out / "wandb").glob("offline-run-*/run-*.wandb")):
        text = subprocess.run([wandb, "leet", "inspect", "--json", str(run)], capture_output=True, text=True, check=True).stdout
        items = [record["history"]["item"] for record in map(json.loads, text.splitlines()) if "history" in record]
        # The page of the run is a row of its own, of no stage.
        history |= {(item["stage"], item["step"]): item for item in items if "stage" in item}
    return history


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


@pytest.mark.parametrize("step", [0, STEPS - 1])
def test_wandb_holds_what_numpy_computes_from_the_trajectories(finished, step):
    logged = offline_history(finished)["rl", step]
    records = trajectories(finished, step)
    assert len(records) == 24
    assert sum(map(calls, records)) > 0, "the cold start taught no tool call: there is nothing to compare"
    for prefix, chosen in [
        ("", records),
        *(
            (f"ability/{name}/", [r for r in records if name in r["abilities"]])
            for name in {name for r in records for name in r["abilities"]}
        ),
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
    history = offline_history(finished)
    lines = metrics(finished, None)
    assert [(line["stage"], line["step"]) for line in lines] == list(history)
    for line in lines:
        logged = history[line["stage"], line["step"]]
        assert all(logged[name] == pytest.approx(value) for name, value in line.items() if isinstance(value, int | float))


def test_learner_and_sampler_agree_after_every_update(finished):
    gaps = [line["rollout/logprob_gap"] for line in metrics(finished)]
    assert len(gaps) == STEPS
    assert max(gaps) <= 1e-3


ON_ONE_GPU = ["rollout.gpus_per_worker=0.5", "learner.gpus_per_worker=0.5", "rollout.engine.gpu_memory_utilization=0.4"]
GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU here")]


@pytest.mark.parametrize(
    "where", [pytest.param([], marks=pytest.mark.slow, id="on CPU"), pytest.param(ON_ONE_GPU, marks=GPU, id="on one GPU")]
)
def test_in_bfloat16_learner_and_sampler_differ_by_rounding_alone(where, tmp_path):
    out = tmp_path / "bfloat16"
    more = ("stages=[rl]", "rollout.engine.dtype=bfloat16", "learner.precision=bfloat16")
    result = subprocess.run(command(out, 2, *more, *where), cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert result.returncode == 0, result.stdout + result.stderr
    gaps = [line["rollout/logprob_gap"] for line in metrics(out)]
    assert min(gaps) > 1e-4, "this is float32"
    assert max(gaps) <= 0.03


def test_the_timing_split_is_logged(finished):
    for line in metrics(finished):
        assert all(line[f"timing_s/{part}"] >= 0 for part in ("rollout", "generate", "tool", "learn", "sync", "step"))


def test_trajectories_keep_the_contract(finished):
    from rollout.lint import lint

    assert not lint(finished / "trajectories")


def test_no_sampled_token_stands_behind_an_action(finished):
    """Not even an end of turn, in demonstrations and rehearsal as in RL."""
    from transformers import AutoTokenizer

    from envs.protocols import DeepEyes

    tokenizer, turns = AutoTokenizer.from_pretrained(finished / f"checkpoints/step_{STEPS}/policy"), 0
    for path in (finished / "trajectories").glob("*.jsonl"):
        for record in map(json.loads, path.read_text().splitlines()):
            pairs = zip(record["token_ids"], record["loss_mask"], strict=True)
            runs = [[token for token, _ in run] for sampled, run in groupby(pairs, key=lambda pair: pair[1]) if sampled]
            for text in map(tokenizer.decode, runs):
                assert DeepEyes().first_turn(text) == text
                turns += 1
    assert turns > 100


def test_the_second_step_is_sampled_by_the_updated_policy(finished):
    versions = [{v for record in trajectories(finished, step) for v in record["versions"] if v >= 0} for step in (0, 1)]
    assert versions == [{COLD_STEPS}, {COLD_STEPS + 1}]


def test_status_json_says_that_it_is_finished(finished):
    status = json.loads((finished / "status.json").read_text())
    assert (status["state"], status["workers"]["replaced"]) == ("finished", 0)
    assert status["policy_version"] == len(metrics(finished, None))


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

    policy = finished / f"checkpoints/step_{STEPS}/policy"
    AutoProcessor.from_pretrained(policy)
    assert AutoModelForImageTextToText.from_pretrained(policy).num_parameters() > 0


def test_a_killed_run_resumes_and_repeats_its_steps(interrupted):
    """Tasks, batches, optimizer and weights are repeated exactly; sampled tokens up to rounding of the engine's batches."""
    out, before = interrupted
    steps = [(line["stage"], line["step"]) for line in metrics(out, None) if line["stage"] != "control"]
    assert steps == [*(("cold_start", step) for step in range(COLD_STEPS)), *(("rl", step) for step in range(STEPS))]
    first, again = before[CHECKPOINT_EVERY], metrics(out)[CHECKPOINT_EVERY]
    assert first["step"] == again["step"] == CHECKPOINT_EVERY
    assert first["timing_s/step"] != again["timing_s/step"], "it was not repeated"
    for name in ("critic/score/mean", "tools/calls_per_episode/mean", "response_length/mean", "actor/grad_norm"):
        assert again[name] == pytest.approx(first[name], rel=1e-3), name
