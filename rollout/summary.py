"""What the driver of a training run keeps of an episode: numbers and names, and a reference to its tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Self

from rollout.code_use import CodeUse, call_errors, code_uses, repeated_calls
from rollout.types import Episode, StopReason, ToolCallRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeSummary:
    """An episode without its tokens, texts and images: some kilobytes, whatever its length.

    Names that it shares with `Trajectory` mean the same. `repeated_calls` are the calls that equal an earlier one. `first_call` is
    the number of the turn with the first call, counted from 1, None without one; `code` says what became of each block of code,
    `errors` has (tool, kind) of each call that failed (`rollout.code_use`). `generate_s` and `tool_s` are seconds in all. `lengths`
    and `trained` count all tokens and the sampled ones of each of its sequences, one for each chain; `log_prob` is the sum of the
    sampler's log-probabilities of the latter. `sequences` is the Ray ObjectRef of the episode's `rollout.sequences.Sequences`; None
    if it is not to be learned from.
    """

    episode_id: str
    task_id: str
    group_id: str
    abilities: tuple[str, ...]
    source: str
    stop_reason: StopReason
    error: str | None
    reward: float
    reward_parts: dict[str, float]
    failed: bool
    unplayed: bool
    trainable: bool
    cut: str | None
    cut_before: int
    correct: bool
    needs_tool: bool | None
    temperature: float
    calls: tuple[ToolCallRecord, ...]
    turn_count: int
    repeated_calls: int
    first_call: int | None
    code: tuple[CodeUse, ...]
    errors: tuple[tuple[str, str], ...]
    generate_s: float
    tool_s: float
    lengths: tuple[int, ...]
    trained: tuple[int, ...]
    log_prob: float
    sequences: Any = None

    @classmethod
    def of(cls, episode: Episode) -> Self:
        """The summary of an episode, without a reference to its sequences."""
        whole = episode.trajectory
        return cls(
            **{name: getattr(whole, name) for name in _SAME},
            calls=tuple(whole.calls),
            turn_count=len(whole.turns),
            repeated_calls=repeated_calls(whole.turns),
            first_call=next((number for number, turn in enumerate(whole.turns, 1) if turn.tool_calls), None),
            code=code_uses(whole.turns),
            errors=call_errors(whole.turns),
            generate_s=sum(turn.generate_s for turn in whole.turns),
            tool_s=sum(call.latency_s for call in whole.calls),
            lengths=tuple(len(chain.token_ids) for chain in episode.chains),
            trained=tuple(sum(chain.loss_mask) for chain in episode.chains),
            log_prob=math.fsum(logprob for chain in episode.chains for logprob in chain.logprobs),
        )

    @property
    def tool_calls(self) -> int:
        """Number of tool calls."""
        return len(self.calls)

    @property
    def sampled_tokens(self) -> int:
        """Number of tokens that the policy sampled."""
        return sum(self.trained)


_SAME = (
    *("episode_id", "task_id", "group_id", "abilities", "source", "stop_reason", "error", "reward", "reward_parts"),
    *("failed", "unplayed", "trainable", "cut", "cut_before", "correct", "needs_tool", "temperature"),
)
