"""Rewards: functions of a finished episode, or of a group of them, by name or import path, with weights."""

from envs.rewards.deepeyes import DeepEyesReward
from envs.rewards.group import GROUP_PARTS, GroupMember, GroupPart, GroupReward, group_part
from envs.rewards.parts import PARTS, Part
from envs.rewards.reward import Reward, WeightedParts, open_group_reward, open_reward

__all__ = [
    "GROUP_PARTS",
    "PARTS",
    "DeepEyesReward",
    "GroupMember",
    "GroupPart",
    "GroupReward",
    "Part",
    "Reward",
    "WeightedParts",
    "group_part",
    "open_group_reward",
    "open_reward",
]
