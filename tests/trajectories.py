"""Episodes made by hand, for tests of the figures computed from them."""

from __future__ import annotations

from typing import Any

from rollout.types import Episode, Group, StopReason, ToolCallRecord, Trajectory, Turn

CODE = ("code", "ok", 1.0, "print(1)")


def trajectory(
    calls=(), group="g", number=0, *, abilities=("faking",), stop=StopReason.ANSWERED, needs=True, correct=False, **fields: Any
) -> Trajectory:
    """An episode with one sampled token per turn.

    `calls` are (tool, status, latency_s, action); `needs` says whether code is needed, None if that is unknown.
    """
    turns = [Turn(action=action, tool_calls=[ToolCallRecord(*call)], generate_s=0.1) for *call, action in calls]
    turns.append(Turn(action="answer", generate_s=0.1))
    mask = [0, 1] * len(turns)
    facts = {
        "episode_id": f"{group}-{number}",
        "task_id": f"task-{group}",
        "group_id": group,
        "abilities": abilities,
        "source": "fake",
        "seed": 0,
        "token_ids": [7] * len(mask),
        "loss_mask": mask,
        "logprobs": [-0.5 * one for one in mask],
        "versions": [0 if one else -1 for one in mask],
        "prompt_length": 1,
        "turns": turns,
        "reward_parts": {"accuracy": float(correct)},
        "answer": "answer",
        "stop_reason": stop,
        "needed_tools": None if needs is None else ["code"] * needs,
    }
    return Trajectory(**facts | fields)


def grouped(*trajectories: Trajectory) -> list[Group]:
    """Groups of these episodes, each of one chain; neighbours of one `group_id` are a group."""
    groups: list[Group] = []
    for one in trajectories:
        if groups and groups[-1].group_id == one.group_id:
            groups[-1] = Group(one.group_id, (*groups[-1].episodes, Episode((one,))))
        else:
            groups.append(Group(one.group_id, (Episode((one,)),)))
    return groups
