"""A starter policy is rebuilt from its seed, reads any text, and says a turn in a few tokens."""

import random

import pytest

from envs.protocols import DeepEyes
from envs.worlds.microworld import make_task
from starter.policy import build, build_processor


def test_the_same_seed_builds_the_same_weights(tmp_path):
    first, second = (build(tmp_path / name, seed=3) for name in "ab")
    assert (first / "model.safetensors").read_bytes() == (second / "model.safetensors").read_bytes()


def test_any_text_survives_the_tokenizer():
    tokenizer = build_processor().tokenizer
    text = "π ≈ 3.14, 漢字, \t<code>\n```python\nprint(12 * 34)\n```\n</code>"
    assert tokenizer.decode(tokenizer(text).input_ids) == text


@pytest.mark.parametrize(
    ("world", "ability"),
    [("microworld", "perception"), ("microworld", "reasoning"), ("mixture", "search"), ("mixture", "integration")],
)
def test_a_turn_is_at_most_twelve_tokens(world, ability):
    processor = build_processor(world)
    for seed in range(20):
        action = next(make_task(ability, True, "train", seed).expert(random.Random(seed)))
        assert len(processor.tokenizer(DeepEyes().write(action)).input_ids) < 12
