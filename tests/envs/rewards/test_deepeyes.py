"""The paper's reward: 0.8 · accuracy + 0.2 · format; a discount if a tool was called."""

import pytest

from envs.rewards import DeepEyesReward
from envs.types import Outcome, Task, ToolCall, ToolStatus

SEVEN = Task("t", "What is 3 + 4?", "7", "reasoning", "test")
CALL = ToolCall("code", ToolStatus.OK, 0.1, "")


def outcome(correct=True, well_formed=True, calls=()):
    return Outcome(SEVEN, "7", ("<answer>7</answer>",), tuple(calls), 1, correct, well_formed)


@pytest.mark.parametrize(
    ("episode", "reward"),
    [
        (outcome(), 1.0),
        (outcome(correct=False), 0.2),
        (outcome(calls=[CALL]), 0.8 * 0.9 + 0.2),
        (outcome(well_formed=False), 0.8),
        (outcome(correct=False, well_formed=False, calls=[CALL]), 0.0),
    ],
    ids=["right", "wrong", "with a call", "malformed", "nothing"],
)
async def test_the_papers_rule(episode, reward):
    assert (await DeepEyesReward()(episode))[0] == pytest.approx(reward)


async def test_the_parts_say_how_it_came_about():
    _, parts = await DeepEyesReward(tool_discount=0.5)(outcome(calls=[CALL]))
    assert parts == {"accuracy": 1.0, "format": 1.0, "tool_discount": 0.5}
