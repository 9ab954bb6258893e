"""How long a turn and an episode may take. Tokens decide when the model has had its say; these end what hangs.

A deadline that a slow but working machine can meet only by luck would let its load decide what is learned, so by default each is
what the budget of tokens takes at a pace below any that is worth running, and time for the environment on top.
"""

from __future__ import annotations

from rollout.config import EpisodeConfig, RolloutConfig
from rollout.types import EpisodeSpec

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


def overdue_s(config: RolloutConfig) -> float:
    """Seconds after which a worker that has not answered is given up: far more than an episode takes, waiting included."""
    return config.start_s + (config.group_s or 2 * (episode_deadline_s(config.episode) + ENVIRONMENT_S))


def is_repeated(spec: EpisodeSpec, cut: str | None, attempts: int) -> bool:
    """Whether an episode that came back is run again because of the deadline that `cut` names.

    It is run again with the same seeds: another sample in its place would favour the short answers that finish in time.
    """
    return cut is not None and spec.repeat_if_cut and spec.cut_before + 1 < attempts
