"""The advantage of an episode: as the learner recorded it, or else calculated from the rewards of its group."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from envs.errors import UsageError
from envs.rewards.group import GROUP_PARTS, GroupMember
from envs.rewards.reward import open_group_reward
from rollout.types import StopReason
from viewer.episode.learned import Learned

_EPSILON = 1e-6


def advantage_of(
    row: Mapping[str, Any], known: Mapping[int, Learned], group: Sequence[Mapping[str, Any]], setting: Any
) -> tuple[float | None, str | None]:
    """The advantage of an episode and where it comes from: "recorded" by the learner, or calculated from the "group": its reward
    minus the mean of its group's, over their standard deviation (GRPO, arXiv:2402.03300, with n - 1 as verl computes it; 0 if they
    are equal). None and "not learned from" if the learner recorded that it has none, or would leave the episode out.

    `group` are the rows of its group that have an outcome, `setting` the run's `reward`; episodes that are not learned from, as a
    deadline cut them off or their question could not be put, are in no mean (`Trajectory.trainable`). Records lack the parts that
    compare the episodes of a group: the built-in ones are added. None and "unknown part" if the setting names a part that no
    record has: a run's own code is not run here.
    """
    recorded = next((taught.advantage for taught in known.values() if taught.advantage is not None), None)
    if recorded is not None:
        return recorded, "recorded"
    if known or _is_left_out(row):
        return None, "not learned from"
    members = [one for one in group if one["reward"] is not None and not _is_left_out(one)]
    if row["reward"] is None or len(members) < 2:
        return None, None
    if _lacks_a_part(setting, members):
        return None, "unknown part"
    rewards = {one["episode_id"]: one["reward"] for one in members}
    if built_in := [{name: weight} for name, weight in _entries(setting) if name in GROUP_PARTS]:
        reward = open_group_reward(built_in)
        assert reward is not None
        compared = [GroupMember(one["correct"], one["calls"], one["turns"], one["reward"], one["reward_parts"]) for one in members]
        try:
            for one, (more, _) in zip(members, reward(compared), strict=True):
                rewards[one["episode_id"]] += more
        except (UsageError, TypeError, ValueError):
            return None, "unknown part"
    if row["episode_id"] not in rewards:
        return None, None
    spread = stdev(rewards.values())
    return (rewards[row["episode_id"]] - fmean(rewards.values())) / (spread + _EPSILON) if spread else 0.0, "group"


def _is_left_out(row: Mapping[str, Any]) -> bool:
    """Whether the learner leaves an episode that has an outcome out of its group."""
    return bool(row.get("cut")) or (row.get("error") is not None and row.get("stop_reason") != StopReason.INFRASTRUCTURE)


def _lacks_a_part(setting: Any, members: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a part by import path is in no record. A function that is the whole reward may name its parts as it likes."""
    entries = list(_entries(setting))
    recorded = {name for one in members for name in one["reward_parts"]}
    if len(entries) == 1 and recorded:
        return False
    return any(":" in name and name.rpartition(":")[2] not in recorded for name, _ in entries)


def _entries(setting: Any) -> Iterator[tuple[str, Any]]:
    """The parts of a setting by name, with their weights."""
    for entry in setting if isinstance(setting, list) else [setting]:
        if isinstance(entry, str):
            yield entry, 1.0
        elif isinstance(entry, dict):
            for name, weight in entry.items():
                # Hydra reads {module:part: 0.2} as the key "module" with the value "part: 0.2".
                part, _, number = weight.partition(":") if isinstance(weight, str) else ("", "", weight)
                yield (f"{name}:{part}", number) if part else (str(name), number)
