"""How long a turn, an episode and a group may take. Tokens decide when the model has had its say; these end what hangs.

A deadline that a slow but working machine can meet only by luck would let its load decide what is learned, so by default each is
what the budget of tokens takes at a pace below any that is worth running, and time for the environment on top.
"""

from __future__ import annotations

from math import ceil

from rollout.config import EpisodeConfig, RolloutConfig

TOKENS_PER_S = 1.0
"""The slowest sampling of one sequence that is waited for. A 32B model that gives each sequence a token in 30 ms is 33 times as
fast (calculated); one of 135 million parameters that samples 125 tokens a second on two cores, for 128 episodes at a time, is as
fast as this (calculated)."""

ENVIRONMENT_S = 120.0
"""Seconds for everything else in a turn: the prompt's prefill, tools, the reward. Tools have deadlines of their own within it."""


def turn_deadline_s(config: EpisodeConfig) -> float:
    """`turn_s`, or what the longest action takes at `TOKENS_PER_S`, and `ENVIRONMENT_S`."""
    return config.turn_s or ENVIRONMENT_S + config.max_action_tokens / TOKENS_PER_S


def episode_deadline_s(config: EpisodeConfig) -> float:
    """`episode_s`, or the same for all its turns and the reset; no episode samples more than `max_tokens`."""
    sampled = min(config.max_turns * config.max_action_tokens, config.max_tokens)
    return config.episode_s or (config.max_turns + 1) * ENVIRONMENT_S + sampled / TOKENS_PER_S


def group_deadline_s(config: RolloutConfig, episodes: int) -> float:
    """`group_s`, or the time of `episodes` episodes of which a worker runs `episodes_per_worker` at a time."""
    return config.group_s or ceil(episodes / config.episodes_per_worker) * (episode_deadline_s(config.episode) + ENVIRONMENT_S)
