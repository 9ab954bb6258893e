"""The starter policy: rebuilt from its seed by the code that made the shipped one, small, and a turn is a few tokens."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoModelForImageTextToText, AutoProcessor

from envs.errors import UsageError
from envs.microworld import make_task
from envs.microworld.basics import MIXES, Basics
from starter.policies import STARTERS, find_policy
from starter.policy import build, build_processor
from starter.pretraining import PretrainingConfig, encode, measure, pretrain


@pytest.fixture(scope="module")
def processor():
    return build_processor()


@pytest.fixture(scope="module", params=STARTERS)
def shipped(request):
    """What a shipped policy's record says of it, and its measured accuracy by kind."""
    directory = STARTERS[request.param]
    record = json.loads((directory / "pretraining.json").read_text())
    model, processor = AutoModelForImageTextToText.from_pretrained(directory), AutoProcessor.from_pretrained(directory)
    return record, measure(model, processor, record["config"]["world"], per_kind=100)


def test_a_shipped_policy_is_what_its_record_says(shipped):
    record, measured = shipped
    assert set(measured) == set(MIXES[record["config"]["world"]])
    for kind, accuracy in record["accuracy"].items():
        assert measured[kind] == pytest.approx(accuracy, abs=0.08)


def test_a_shipped_policy_cannot_do_what_needs_a_tool(shipped):
    _, measured = shipped
    assert measured["hard_perception"] < 0.25
    assert all(measured[kind] < 0.1 for kind in measured if kind.startswith("hard_") and kind != "hard_perception")


def test_the_shipped_weights_are_small():
    sizes = [path.stat().st_size for directory in STARTERS.values() for path in directory.rglob("*") if path.is_file()]
    assert sum(sizes) < 8 << 20


def test_a_shortened_pretraining_learns_and_is_repeatable(tmp_path):
    losses = [[], []]
    for trial in losses:
        config = PretrainingConfig(out=str(tmp_path / str(len(trial))), steps=12, batch_size=16, warmup_steps=4)
        pretrain(config, lambda step, loss, trial=trial: trial.append(loss))
    assert losses[0] == losses[1]
    assert losses[0][-1] < losses[0][0] / 2
    assert find_policy(config.out)


def test_the_same_seed_builds_the_same_weights(tmp_path):
    first, second = (build(tmp_path / name, seed=3) for name in "ab")
    assert (first / "model.safetensors").read_bytes() == (second / "model.safetensors").read_bytes()


def test_any_text_survives_the_tokenizer(processor):
    text = "π ≈ 3.14, 漢字, \t<code>\n```python\nprint(12 * 34)\n```\n</code>"
    assert processor.tokenizer.decode(processor.tokenizer(text).input_ids) == text


@pytest.mark.parametrize(
    ("world", "ability"),
    [("microworld", "perception"), ("microworld", "reasoning"), ("mixture", "search"), ("mixture", "integration")],
)
def test_a_turn_is_at_most_twelve_tokens(world, ability):
    processor = build_processor(world)
    for seed in range(20):
        action = next(make_task(ability, True, "train", seed).expert(random.Random(seed)))
        assert len(processor.tokenizer(action).input_ids) < 12


def test_only_the_answer_is_trained_on(processor):
    rng, draw = np.random.default_rng(0), Basics()
    tasks = [draw(rng) for _ in range(8)]
    _, labels = encode(processor, tasks)
    for task, row in zip(tasks, labels, strict=True):
        assert processor.tokenizer.decode(row[row >= 0]) == f"<answer>{task.answer}</answer><|im_end|>"


@pytest.mark.parametrize("world", MIXES)
def test_no_pretraining_task_shows_a_tool_call(world):
    rng, draw = np.random.default_rng(0), Basics(world=world)
    for _ in range(200):
        task = draw(rng)
        assert "<code>" not in task.question
        assert "<tool_call>" not in task.question
        assert list(task.expert(random.Random(0))) == [f"<answer>{task.answer}</answer>"]


def test_a_missing_policy_is_named():
    with pytest.raises(UsageError, match="policy=nowhere"):
        find_policy("nowhere")
    assert Path(find_policy("starter")).is_absolute()
