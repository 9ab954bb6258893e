"""Types of a rollout: what is asked for (EpisodeSpec), what comes back (Trajectory, Episode).

Axes: one list entry per token of the whole transcript (T), prompt first, then sampled turns and observations in turn.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any


class StopReason(StrEnum):
    """Why an episode ended. The first five are outcomes; INFRASTRUCTURE is ours to repeat."""

    ANSWERED = "ANSWERED"
    TURN_LIMIT = "TURN_LIMIT"
    TOKEN_LIMIT = "TOKEN_LIMIT"
    TIME_LIMIT = "TIME_LIMIT"
    ABORTED = "ABORTED"
    INFRASTRUCTURE = "INFRASTRUCTURE"


@dataclass(frozen=True, slots=True)
class EpisodeSpec:
    """One episode to run.

    Episodes of one group share `group_id`, `env_id` and `env_seed`, and so start from the same observation; `sampling_seed` sets
    them apart. `actor` is "policy" for the served model, or "expert" / "random" for a script that the environment supplies.
    """

    episode_id: str
    group_id: str
    env_id: str
    env_seed: int
    sampling_seed: int
    temperature: float = 1.0
    actor: str = "policy"
    env_kwargs: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Generation:
    """One sampled turn: N token ids with their N log-probabilities (natural logarithm, at the sampling temperature).

    `finish_reason` is "stop" (the model ended its turn; the end-of-turn token is the last of `token_ids`) or "length".
    `version` is the policy version that sampled every token of the turn.
    """

    token_ids: list[int]
    logprobs: list[float]
    finish_reason: str
    version: int


@dataclass(frozen=True, slots=True)
class Turn:
    """One action of the model and what the environment answered. Times in seconds; `images` are sha256 names."""

    action: str
    observation: str
    images: list[str]
    tool: str | None
    tool_status: str | None
    tool_latency_s: float
    generate_s: float


@dataclass(frozen=True, slots=True)
class Trajectory:
    """The record of one episode; one JSON object per line in `trajectories/*.jsonl`.

    `token_ids`, `loss_mask`, `logprobs`, `versions` have equal length T. `loss_mask` is 1 exactly on tokens that the policy
    sampled; `logprobs` (natural logarithm, at the sampling temperature) is 0 and `versions` is -1 elsewhere. `images` holds sha256
    names in the order of the image placeholders in `token_ids`. `needed_tools` names the tools that the task cannot do without, and
    is None where nobody knows. Raises ValueError where these invariants do not hold.
    """

    episode_id: str
    task_id: str
    group_id: str
    ability: str
    source: str
    seed: int
    token_ids: list[int]
    loss_mask: list[int]
    logprobs: list[float]
    versions: list[int]
    prompt_length: int
    images: list[str]
    turns: list[Turn]
    reward: float
    reward_parts: dict[str, float]
    answer: str | None
    stop_reason: StopReason
    needed_tools: list[str] | None = None
    temperature: float = 1.0

    def __post_init__(self) -> None:
        lengths = {len(self.token_ids), len(self.loss_mask), len(self.logprobs), len(self.versions)}
        if len(lengths) != 1:
            raise ValueError(f"{self.episode_id}: token_ids, loss_mask, logprobs and versions differ in length: {sorted(lengths)}")
        if not 0 <= self.prompt_length <= len(self.token_ids):
            raise ValueError(f"{self.episode_id}: prompt_length {self.prompt_length} is outside 0…{len(self.token_ids)}")
        if any(self.loss_mask[: self.prompt_length]):
            raise ValueError(f"{self.episode_id}: loss_mask is set inside the prompt")
        for position, (mask, logprob, version) in enumerate(zip(self.loss_mask, self.logprobs, self.versions, strict=True)):
            sampled = version >= 0
            if mask not in (0, 1) or bool(mask) != sampled:
                raise ValueError(f"{self.episode_id}: token {position} has loss_mask {mask} but version {version}")
            if not math.isfinite(logprob) or logprob > 1e-4 or (not sampled and logprob != 0):
                raise ValueError(f"{self.episode_id}: token {position} has log-probability {logprob}")
        if not math.isfinite(self.reward):
            raise ValueError(f"{self.episode_id}: reward is {self.reward}")

    @property
    def tool_calls(self) -> int:
        """Number of tool calls in this episode."""
        return sum(turn.tool is not None for turn in self.turns)

    @property
    def needs_tool(self) -> bool | None:
        """Whether the task needs any tool; None where nobody knows."""
        return None if self.needed_tools is None else bool(self.needed_tools)

    @property
    def correct(self) -> bool:
        """Whether the final answer was right; in an environment that does not say, whether its rewards add up to 1."""
        return self.reward_parts.get("accuracy", self.reward) >= 1.0

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self), ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def from_json(cls, line: str) -> Trajectory:
        """The inverse of `to_json`; raises ValueError for a record that breaks the contract."""
        record = json.loads(line)
        try:
            record["turns"] = [Turn(**turn) for turn in record["turns"]]
            record["stop_reason"] = StopReason(record["stop_reason"])
            return cls(**record)
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a trajectory record: {error}") from error


@dataclass(frozen=True, slots=True)
class Episode:
    """A trajectory with the images that it names, as PNG bytes by sha256. `error` says what failed if it is INFRASTRUCTURE."""

    trajectory: Trajectory
    images: dict[str, bytes]
    error: str | None = None
