"""Pre-training teaches what a base knows and no tool call, can be repeated, and writes whole or not at all."""

import json
import random

import numpy as np
import pytest
from transformers import AutoModelForImageTextToText, AutoProcessor

from envs.errors import UsageError
from envs.protocols import Answer
from envs.worlds.microworld.basics import MIXES, Basics
from starter.policies import STARTERS, find_policy
from starter.policy import build_processor
from starter.pretraining import PretrainingConfig, encode, measure, pretrain


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


def test_a_shortened_pretraining_learns_and_is_repeatable(tmp_path):
    lines = {"first": [], "second": []}
    for name, shown in lines.items():
        config = PretrainingConfig(out=str(tmp_path / name), steps=12, batch_size=4, warmup_steps=4)
        pretrain(config, lambda done, text, shown=shown: shown.append((done, float(text.removeprefix("loss ")))))
    assert lines["first"] == lines["second"]
    assert [done for done, _ in lines["first"]] == list(range(1, 13))
    losses = [loss for _, loss in lines["first"]]
    assert losses[-1] < losses[0] / 2
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in lines]
    assert weights[0] == weights[1]
    assert find_policy(config.out)


def test_a_directory_that_is_in_use_is_not_written_to(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(UsageError, match="write another out="):
        pretrain(PretrainingConfig(out=str(tmp_path), steps=1))
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("settings", "answer"),
    [({"world": "moon"}, "microworld or mixture"), ({"steps": 0}, "steps=0"), ({"batch_size": 0}, "1 or more")],
)
def test_settings_out_of_range_are_answered(tmp_path, settings, answer):
    with pytest.raises(UsageError, match=answer):
        pretrain(PretrainingConfig(out=str(tmp_path / "new"), **settings))
    assert not (tmp_path / "new").exists()


def test_only_the_answer_is_trained_on():
    processor, rng, draw = build_processor(), np.random.default_rng(0), Basics()
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
        assert list(task.expert(random.Random(0))) == [Answer(task.answer)]
