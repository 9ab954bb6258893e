"""Rewards: 0.8 · accuracy + 0.2 · format, counted on the model's own text; a discount where a tool was called."""

import pytest

from envs.rewards import Reward
from envs.scoring import Scoring, is_right
from envs.types import Task

ANSWER = "<answer>7</answer>"
SEVEN = Task("t", "What is 3 + 4?", "7", "reasoning", "test")
CODE = "<code>\n```python\nprint(7)\n```\n</code>"


async def test_a_right_and_well_formed_answer_earns_one():
    assert (await Reward()([ANSWER], "7", SEVEN, tool_calls=0))[0] == pytest.approx(1.0)


async def test_a_wrong_answer_earns_the_format_only():
    assert (await Reward()([ANSWER], "8", SEVEN, tool_calls=0))[0] == pytest.approx(0.2)


async def test_calling_a_tool_discounts_the_accuracy_only():
    assert (await Reward(tool_discount=0.9)([CODE, ANSWER], "7", SEVEN, tool_calls=1))[0] == pytest.approx(0.8 * 0.9 + 0.2)


async def test_one_malformed_turn_loses_the_format():
    reward, parts = await Reward()(["what?", ANSWER], "7", SEVEN, tool_calls=0)
    assert parts["format"] == 0
    assert reward == pytest.approx(0.8)


async def test_no_answer_earns_nothing():
    assert (await Reward()([CODE], None, SEVEN, tool_calls=1))[0] == 0


@pytest.mark.parametrize(
    ("answer", "truth"), [("Red", "red"), (" red. ", "red"), ("1,234", "1234"), ("7.0", "7"), ('"7"', "7"), ("1e3", "1000")]
)
async def test_equal_answers_match(answer, truth):
    assert await is_right("Q", answer, truth, Scoring())


@pytest.mark.parametrize(
    ("answer", "truth"), [("", "7"), ("77", "7"), ("red blue", "red"), ("7 or 8", "7"), ("7" * 300, "7"), ("nan", "7")]
)
async def test_different_answers_do_not(answer, truth):
    assert not await is_right("Q", answer, truth, Scoring())


async def test_an_over_long_answer_is_wrong_even_if_it_is_the_truth():
    assert not await is_right("Q", "a" * 300, "a" * 300, Scoring())
