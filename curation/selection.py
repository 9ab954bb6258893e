"""Which set a question goes to, by how often it was answered right without tools and with them (DeepEyesV2 §3.3, arXiv:2511.05271).

Hard without tools and solvable with them: reinforcement learning can find the way. Hard and not solvable: somebody must demonstrate
it. All others teach nothing about tools.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import product

from envs.errors import UsageError
from rollout.types import Episode


class Destination(StrEnum):
    """The set that a question goes to."""

    rl = "rl"
    cold_start = "cold_start"
    dropped = "dropped"


class Reason(StrEnum):
    """Why a question was dropped."""

    too_easy = "too_easy"
    mastered = "mastered"
    little_benefit = "little_benefit"
    unplayed = "unplayed"
    unjudged = "unjudged"
    failed = "failed"
    unreadable = "unreadable"


MEANINGS = {
    Reason.too_easy: "right too often without tools",
    Reason.mastered: "right too often with tools",
    Reason.little_benefit: "solvable with tools, but too little more often than without",
    Reason.unplayed: "could not be put to the policy, often enough to matter",
    Reason.unjudged: "no verdict of the judge, often enough to matter",
    Reason.failed: "infrastructure failed, often enough to matter",
    Reason.unreadable: "would not be read back from a file as it was put",
}
"""The reasons in words."""


@dataclass
class Thresholds:
    """Where the sets end, as shares of the answers to one question."""

    max_pass_rate_without: float = 0.25
    """A question is hard if at most this share is right without tools: 2 of 8."""

    min_pass_rate_with: float = 0.0
    """A hard question is solvable if an answer with tools is right, and at least this share of them: then it goes to the RL set,
    otherwise to the cold-start set."""

    max_pass_rate_with: float = 1.0
    """A hard question is dropped if more than this share is right with tools: at 0.99, if all are, which leaves a group of equal
    rewards."""

    min_benefit: float = 0.0
    """A solvable question is dropped if the share with tools is not at least so much larger than the share without; 0 asks for
    nothing."""

    def check(self) -> None:
        """Raise UsageError if one is no share, or if no question can be in the RL set."""
        for name, value in vars(self).items():
            if not 0 <= value <= 1:
                raise UsageError(f"thresholds.{name}={value:g}: write a share between 0 and 1")
        if self.max_pass_rate_with < max(self.min_pass_rate_with, self.min_benefit):
            raise UsageError(
                f"thresholds.max_pass_rate_with={self.max_pass_rate_with:g} is below min_pass_rate_with or min_benefit: no "
                "question could be solvable"
            )


@dataclass(frozen=True, slots=True)
class Tries:
    """The answers to one question under one condition: how many were `right`, of how many with an outcome. `missing` are those
    that have none, by the reason, and `error` says what was wrong with the first of them; `calling` called a tool, or tried to."""

    right: int
    answered: int
    missing: dict[Reason, int] = field(default_factory=dict)
    calling: int = 0
    error: str | None = None

    @classmethod
    def of(cls, episodes: Sequence[Episode]) -> Tries:
        """What became of the episodes. One that a deadline cut off is an outcome, as in any evaluation."""
        found = [(episode.trajectory, _missing(episode)) for episode in episodes]
        sound = [trajectory for trajectory, reason in found if reason is None]
        reasons = [reason for _, reason in found if reason is not None]
        return cls(
            sum(trajectory.correct for trajectory in sound),
            len(sound),
            {reason: reasons.count(reason) for reason in dict.fromkeys(reasons)},
            sum(trajectory.tool_calls > 0 for trajectory in sound),
            next((episode.error for episode in episodes if episode.error is not None), None),
        )

    @property
    def rate(self) -> float | None:
        """The share of right answers; None if there is none with an outcome."""
        return self.right / self.answered if self.answered else None

    @property
    def tool_use(self) -> float | None:
        """The share of answers that called a tool; None if there is none with an outcome."""
        return self.calling / self.answered if self.answered else None

    def possible_rates(self) -> list[float]:
        """The shares that there might be if the missing answers had come."""
        missing = sum(self.missing.values())
        count = self.answered + missing
        return [(self.right + more) / count for more in range(missing + 1)] if count else []


def is_hard(without: Tries, thresholds: Thresholds) -> bool:
    """Whether a question may be hard without tools, whatever the missing answers would have been."""
    return any(rate <= thresholds.max_pass_rate_without for rate in without.possible_rates())


def destination(without: Tries, with_tools: Tries | None, thresholds: Thresholds) -> tuple[Destination, Reason | None]:
    """The set of a question, and why if it was dropped. `with_tools` is None if it was not asked so, being too easy.

    Answers that are missing count neither as right nor as wrong: if they could have changed the set, the question is dropped.
    """
    rates = product(without.possible_rates(), with_tools.possible_rates() if with_tools else [0.0])
    places = {_place(low, high, thresholds) for low, high in rates}
    if len({place for place, _ in places}) == 1:
        ((place, reason), *_) = sorted(places, key=str)
        return place, reason
    missing = [reason for tries in (without, with_tools) if tries for reason in tries.missing]
    return Destination.dropped, missing[0]


def _place(without: float, with_tools: float, thresholds: Thresholds) -> tuple[Destination, Reason | None]:
    if without > thresholds.max_pass_rate_without:
        return Destination.dropped, Reason.too_easy
    if with_tools > thresholds.max_pass_rate_with:
        return Destination.dropped, Reason.mastered
    if with_tools == 0 or with_tools < thresholds.min_pass_rate_with:
        return Destination.cold_start, None
    if thresholds.min_benefit and with_tools - without < thresholds.min_benefit - 1e-9:  # 0.3 − 0.1 is not 0.2 to the last bit
        return Destination.dropped, Reason.little_benefit
    return Destination.rl, None


def _missing(episode: Episode) -> Reason | None:
    """Why an answer has no outcome that says something about the policy; None if it has one."""
    if episode.failed:
        return Reason.failed
    if episode.unplayed:
        return Reason.unplayed
    return Reason.unjudged if episode.chains[0].reward_parts.get("judge_no_verdict") else None
