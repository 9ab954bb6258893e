"""A demonstration is verified only if its answer is right and none of its tool calls failed."""

import pytest

from curation.verify import is_verified
from rollout.types import StopReason, ToolCallRecord, Trajectory, Turn


def trajectory(correct, *turns):
    """A record of turns, each given as the statuses of its tool calls."""
    return Trajectory(
        episode_id="episode",
        task_id="task",
        group_id="group",
        source="test",
        seed=0,
        turns=[Turn(action="…", tool_calls=[ToolCallRecord("code", status, 0.0) for status in statuses]) for statuses in turns],
        reward=float(correct),
        stop_reason=StopReason.ANSWERED,
    )


@pytest.mark.parametrize(
    ("correct", "turns", "verified"),
    [
        (True, [[], []], True),
        (True, [["ok"], []], True),
        (True, [["ok", "ok"], []], True),
        (False, [["ok"], []], False),
        (True, [["error"], []], False),
        (True, [["ok", "error"], []], False),
        (True, [["error"], ["ok"], []], False),
    ],
)
def test_what_is_verified(correct, turns, verified):
    assert is_verified(trajectory(correct, *turns)) is verified
