"""Types of a rollout: the request (EpisodeSpec, GroupSpec) and what comes back (Trajectory, Episode, Group).

Axes: one list entry per token of a whole transcript (T), prompt first, then sampled turns and observations in turn.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from enum import StrEnum
from typing import Any, Protocol

MOST_LOGPROB = 1e-4
"""The largest log-probability that a record may have: 0, and what rounding adds."""


class StopReason(StrEnum):
    """Why an episode ended. The first five are outcomes; INFRASTRUCTURE is no fault of the model: the episode is retried."""

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
    `repeat_if_cut` asks for another attempt, with the same seeds, if a deadline cuts it off; `cut_before` counts those that were.
    """

    episode_id: str
    group_id: str
    env_id: str
    env_seed: int
    sampling_seed: int
    temperature: float = 1.0
    actor: str = "policy"
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    repeat_if_cut: bool = False
    cut_before: int = 0


@dataclass(frozen=True, slots=True)
class Generation:
    """N sampled token ids with their N log-probabilities (natural logarithm, at the sampling temperature).

    `finish_reason` is "stop" (the model ended its turn, or wrote one of the texts that end it; an end-of-turn token is the last of
    `token_ids`) or "length". `version` is the policy version that sampled every token, or the last of them if new weights came in
    between: then `versions` has one for each token. `reasoning` are thoughts that an endpoint's API keeps apart from the text: they
    are no tokens, and nothing in them is acted on.
    """

    token_ids: list[int]
    logprobs: list[float]
    finish_reason: str
    version: int
    reasoning: str = ""
    versions: list[int] | None = None

    @property
    def token_versions(self) -> list[int]:
        """The policy version that sampled each token."""
        return [self.version] * len(self.token_ids) if self.versions is None else self.versions


@dataclass(frozen=True, slots=True)
class ToolCallRecord:
    """One tool call of a turn: the tool's name, how it ended (a `ToolStatus`), and its wall time in seconds."""

    tool: str
    status: str
    latency_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One action of the model and what the environment answered. Times in seconds; `images` are sha256 names.

    `tool`, `tool_status` and `tool_latency_s`, which stand in the JSON as well, are those of the first of the `tool_calls`: most
    turns have at most one. `reasoning` are the thoughts that an endpoint's API keeps apart; it stands in the JSON if there are any.
    """

    action: str
    observation: str = ""
    images: list[str] = field(default_factory=list)
    tool_calls: list[ToolCallRecord] = field(default_factory=list)
    generate_s: float = 0.0
    reasoning: str = ""

    @property
    def succeeded(self) -> bool:
        """Whether no tool call of this turn failed."""
        return all(call.status == "ok" for call in self.tool_calls)

    @property
    def tool(self) -> str | None:
        """The tool that was called first; None without a call."""
        return self.tool_calls[0].tool if self.tool_calls else None

    @property
    def tool_status(self) -> str | None:
        """How the first call ended; None without a call."""
        return self.tool_calls[0].status if self.tool_calls else None

    @property
    def tool_latency_s(self) -> float:
        """Wall time of the first call; 0 without a call."""
        return self.tool_calls[0].latency_s if self.tool_calls else 0.0

    def to_record(self) -> dict[str, Any]:
        """Plain values for JSON."""
        reasoning = {"reasoning": self.reasoning} if self.reasoning else {}
        return {
            "action": self.action,
            **reasoning,
            "observation": self.observation,
            "images": self.images,
            "tool": self.tool,
            "tool_status": self.tool_status,
            "tool_latency_s": self.tool_latency_s,
            "tool_calls": [asdict(call) for call in self.tool_calls],
            "generate_s": self.generate_s,
        }

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Turn:
        """The inverse of `to_record`; also reads records without `tool_calls`."""
        record = dict(record)
        tool, status, latency_s = (record.pop(name, None) for name in ("tool", "tool_status", "tool_latency_s"))
        calls = record.pop("tool_calls", None)
        if calls is None:
            calls = [] if tool is None else [{"tool": tool, "status": status, "latency_s": latency_s}]
        return cls(**record, tool_calls=[ToolCallRecord(**call) for call in calls])


@dataclass(frozen=True, slots=True, kw_only=True)
class Trajectory:
    """The record of one episode, or of one of its chains; one JSON object per line in `trajectories/*.jsonl`.

    A *chain* is a sequence of tokens that only ever grew. An episode has one, `chain` 0, unless its chat template rewrites earlier
    turns (see `rollout.tokens.transcript`): then each rewriting begins another, and each sampled token is trained in exactly one of
    them, behind the exact prompt that it was sampled from. All chains of an episode carry its outcome; `turns` are those sampled
    in this chain.

    `token_ids`, `loss_mask`, `logprobs`, `versions` have equal length T. `loss_mask` is 1 exactly on tokens that the policy
    sampled in this chain; `logprobs` (natural logarithm, at the sampling temperature) is 0 and `versions` is -1 elsewhere. `images`
    holds sha256 names in the order of the image placeholders in `token_ids`. `needed_tools` names the tools that the task requires,
    None if unknown. `error` says what failed if the episode is INFRASTRUCTURE, and why its question could not be put to the policy
    if it is ABORTED or TOKEN_LIMIT. `cut` names the deadline that cut the episode off, None if none did; `cut_before` counts the
    attempts before this one that a deadline cut off. Raises ValueError if these invariants do not hold.
    """

    episode_id: str
    task_id: str
    group_id: str
    abilities: tuple[str, ...] = ()
    source: str
    seed: int
    chain: int = 0
    token_ids: list[int] = field(default_factory=list)
    loss_mask: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)
    prompt_length: int = 0
    images: list[str] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    reward: float = 0.0
    reward_parts: dict[str, float] = field(default_factory=dict)
    answer: str | None = None
    stop_reason: StopReason
    error: str | None = None
    needed_tools: list[str] | None = None
    temperature: float = 1.0
    cut: str | None = None
    cut_before: int = 0

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
            if not math.isfinite(logprob) or logprob > MOST_LOGPROB or (not sampled and logprob != 0):
                raise ValueError(f"{self.episode_id}: token {position} has log-probability {logprob}")
        if not math.isfinite(self.reward):
            raise ValueError(f"{self.episode_id}: reward is {self.reward}")
        if isinstance(self.abilities, str):
            raise ValueError(f"{self.episode_id}: abilities is a list of names, not {self.abilities!r}")
        if self.error is not None and self.stop_reason not in _WITH_ERROR:
            raise ValueError(f"{self.episode_id}: it has an error ({self.error}) but ended as {self.stop_reason}")
        if self.cut is not None and self.stop_reason not in _CUT:
            raise ValueError(f"{self.episode_id}: a deadline cut it off ({self.cut}) but it ended as {self.stop_reason}")

    @property
    def failed(self) -> bool:
        """Whether our infrastructure failed, not the model: such an episode is in no statistics and is never learned from."""
        return self.stop_reason is StopReason.INFRASTRUCTURE

    @property
    def unplayed(self) -> bool:
        """Whether the question could not be put to the policy: an endpoint refused it, its picture is broken, or it does not fit.

        Such an episode is an outcome, and wrong: it stays in every figure. There is nothing in it to learn from.
        """
        return self.error is not None and not self.failed

    @property
    def trainable(self) -> bool:
        """Whether there is something to learn from: the model, and not a clock, a machine or a broken question, ended the episode.

        An episode that a deadline cut off is an outcome in every figure, but its reward so far is that of a model that was
        interrupted, not of one that stopped: it says nothing about what was sampled, and in its group's mean it would reward the
        others for having been quick on a busy machine.
        """
        return not (self.failed or self.unplayed or self.cut)

    @property
    def calls(self) -> list[ToolCallRecord]:
        """All tool calls, in order."""
        return [call for turn in self.turns for call in turn.tool_calls]

    @property
    def tool_calls(self) -> int:
        """Number of tool calls."""
        return sum(len(turn.tool_calls) for turn in self.turns)

    @property
    def needs_tool(self) -> bool | None:
        """Whether the task needs any tool; None if unknown."""
        return None if self.needed_tools is None else bool(self.needed_tools)

    @property
    def correct(self) -> bool:
        """Whether the final answer was right; if the environment does not say, whether its rewards add up to 1."""
        return self.reward_parts.get("accuracy", self.reward) >= 1.0

    def to_json(self) -> str:
        """One line of JSON."""
        # Not `asdict`, which copies every token by itself.
        record = {field.name: getattr(self, field.name) for field in fields(self)}
        record["turns"] = [turn.to_record() for turn in self.turns]
        return json.dumps(record, ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def from_json(cls, line: str) -> Trajectory:
        """The inverse of `to_json`; also reads records with `ability` in place of `abilities`. Raises ValueError for a record that
        breaks the contract."""
        record = json.loads(line)
        try:
            if "ability" in record:
                record["abilities"] = split_abilities(record.pop("ability"))
            if missing := sorted(_REQUIRED - record.keys()):
                raise ValueError(f"not a trajectory record: it has no {', '.join(missing)}")
            record["abilities"] = tuple(record["abilities"])
            record["turns"] = [Turn.from_record(turn) for turn in record["turns"]]
            record["stop_reason"] = StopReason(record["stop_reason"])
            return cls(**record)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a trajectory record: {error}") from error


_WITH_ERROR = (StopReason.INFRASTRUCTURE, StopReason.ABORTED, StopReason.TOKEN_LIMIT)
_CUT = (StopReason.TIME_LIMIT, StopReason.ABORTED)
_REQUIRED = {field.name for field in fields(Trajectory)} - {"chain", "error", "needed_tools", "temperature", "cut", "cut_before"}


def split_abilities(text: str) -> tuple[str, ...]:
    """The abilities in a text that joins them with "+"."""
    return tuple(name for name in text.split("+") if name)


@dataclass(frozen=True, slots=True)
class Episode:
    """The chains of one episode, at least one, with the images that they name, as PNG bytes by sha256."""

    chains: tuple[Trajectory, ...]
    images: dict[str, bytes] = field(default_factory=dict)

    @property
    def trajectory(self) -> Trajectory:
        """The episode in one record, for statistics: the tokens, images and turns of its chains joined.

        An episode of one chain has that chain's own record. The joined tokens of several chains are no prompt that any policy saw.
        """
        first = self.chains[0]
        if len(self.chains) == 1:
            return first
        joined = {name: [entry for chain in self.chains for entry in getattr(chain, name)] for name in _JOINED}
        return replace(first, **joined)

    @property
    def failed(self) -> bool:
        """See `Trajectory.failed`."""
        return self.chains[0].failed

    @property
    def unplayed(self) -> bool:
        """See `Trajectory.unplayed`."""
        return self.chains[0].unplayed

    @property
    def trainable(self) -> bool:
        """See `Trajectory.trainable`."""
        return self.chains[0].trainable

    @property
    def cut(self) -> str | None:
        """The deadline that cut it off, if one did."""
        return self.chains[0].cut

    @property
    def cut_before(self) -> int:
        """How many attempts before this one a deadline cut off."""
        return self.chains[0].cut_before

    @property
    def error(self) -> str | None:
        """What failed, or why the question could not be put to the policy."""
        return self.chains[0].error


_JOINED = ("token_ids", "loss_mask", "logprobs", "versions", "images", "turns")


@dataclass(frozen=True, slots=True)
class GroupSpec:
    """Episodes to run on one task: the unit that is sent to a worker, and that advantages compare."""

    group_id: str
    episodes: tuple[EpisodeSpec, ...]


class Ended(Protocol):
    """An episode that has ended, however much of its record is at hand."""

    @property
    def failed(self) -> bool:
        """See `Trajectory.failed`."""
        ...


@dataclass(frozen=True, slots=True)
class Group[E: Ended]:
    """What became of a `GroupSpec`: its episodes, or the summaries of them, in the order of their specs."""

    group_id: str
    episodes: tuple[E, ...]

    @property
    def sound(self) -> tuple[E, ...]:
        """The episodes that have an outcome: all but those that still failed after their retries."""
        return tuple(episode for episode in self.episodes if not episode.failed)


def episodes_of[E: Ended](groups: Iterable[Group[E]]) -> Iterator[E]:
    """All episodes, group after group."""
    for group in groups:
        yield from group.episodes


def form_episodes(trajectories: Iterable[Trajectory]) -> Iterator[Episode]:
    """Episodes, without their images, from their records. The chains of an episode follow each other, as in a stored file."""
    chains: list[Trajectory] = []
    for trajectory in trajectories:
        if chains and (trajectory.chain == 0 or trajectory.episode_id != chains[0].episode_id):
            yield Episode(tuple(chains))
            chains = []
        chains.append(trajectory)
    if chains:
        yield Episode(tuple(chains))


def form_groups(episodes: Iterable[Episode]) -> list[Group[Episode]]:
    """The groups of some episodes: groups in the order of their first episodes, episodes in the order in which they come."""
    members: dict[str, list[Episode]] = {}
    for episode in episodes:
        members.setdefault(episode.chains[0].group_id, []).append(episode)
    return [Group(group_id, tuple(episodes)) for group_id, episodes in members.items()]
