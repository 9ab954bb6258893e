"""Rewards: functions of a finished episode, by name or import path, with weights."""

from envs.rewards.deepeyes import DeepEyesReward
from envs.rewards.parts import PARTS, Part
from envs.rewards.reward import Reward, WeightedParts, open_reward

__all__ = ["PARTS", "DeepEyesReward", "Part", "Reward", "WeightedParts", "open_reward"]
