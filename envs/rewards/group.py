"""Reward parts that compare the episodes of a group: each is a function of all of them to a number for each.

One episode cannot know whether its call was needed; its group, which played the same task, can. The learner adds these parts to the
rewards of a group before it computes advantages (`learner.draw`): an environment, which sees one episode, adds nothing for them, so
they are in the metrics of a training run and not in the reward of a stored trajectory or of an evaluation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from envs.errors import UsageError
from envs.runtime.failures import told


@dataclass(frozen=True, slots=True)
class GroupMember:
    """What a part of a group sees of one of its episodes.

    `correct`: whether the answer was right. `tool_calls` and `turns` are numbers of calls and turns. `reward` is the episode's
    reward so far, `reward_parts` its parts by name.
    """

    correct: bool
    tool_calls: int
    turns: int = 1
    reward: float = 0.0
    reward_parts: Mapping[str, float] = field(default_factory=dict)


_MARK = "of_group"

GroupPart = Callable[[Sequence[GroupMember]], Sequence[float]]
"""G members to G numbers, in their order. G is at least 1: episodes that nothing can be learned from are left out."""


def group_part[F: GroupPart](part: F) -> F:
    """Mark a function as a part of a group, as a decorator. Its name is the function's."""
    setattr(part, _MARK, True)
    return part


def is_group_part(part: object) -> bool:
    """Whether `group_part` marked it."""
    return getattr(part, _MARK, False) is True


@group_part
def necessity(members: Sequence[GroupMember]) -> list[float]:
    """Necessity-aware: right · called, if at most a quarter of the members without a call were right; else 0.

    In the spirit of Beacon (arXiv:2607.28595): a call pays only where the policy fails without it. The pass rate without tools is
    that of the group itself, so it is of the present policy and costs no further rollouts. It is unknown, and the part 0, in a
    group in which all members call.
    """
    without = [member.correct for member in members if not member.tool_calls]
    if not without or sum(without) > 0.25 * len(without):
        return [0.0] * len(members)
    return [float(member.correct and member.tool_calls > 0) for member in members]


@group_part
def benefit(members: Sequence[GroupMember]) -> list[float]:
    """Benefit-scaled: for a member that calls, the pass rate of those that call minus that of those that don't; else 0.

    After the tool benefit score of AdaTooler-V (arXiv:2512.16918), which is computed once for each item with a reference model;
    here the group gives it, for the present policy. It is negative where calls hurt, and 0 if all members call or none does.
    """
    called = [member.correct for member in members if member.tool_calls]
    without = [member.correct for member in members if not member.tool_calls]
    if not called or not without:
        return [0.0] * len(members)
    gain = sum(called) / len(called) - sum(without) / len(without)
    return [gain * (member.tool_calls > 0) for member in members]


@group_part
def cost(members: Sequence[GroupMember]) -> list[float]:
    """Cost-tightening: right · (1 + fewest) / (1 + calls), with the fewest calls of a member that was right.

    After TRACE of HyperEyes (arXiv:2605.07177), whose reference number of calls tightens over training; here the reference is the
    group's own best, which tightens as the policy does and leaves long searches alone as long as nobody finds a shorter one.
    """
    fewest = min((member.tool_calls for member in members if member.correct), default=0)
    return [member.correct * (1 + fewest) / (1 + member.tool_calls) for member in members]


GROUP_PARTS: Mapping[str, GroupPart] = {"necessity": necessity, "benefit": benefit, "cost": cost}
"""The built-in parts of a group by name."""


class GroupReward:
    """A weighted sum of parts of a group: Σ weight · part."""

    def __init__(self, parts: Sequence[tuple[GroupPart, float]]) -> None:
        self._parts = tuple(parts)

    def __call__(self, members: Sequence[GroupMember]) -> list[tuple[float, dict[str, float]]]:
        """What each member's reward grows by, and the parts by name. Raises UsageError if a part does not return finite numbers."""
        added, parts = [0.0] * len(members), [dict[str, float]() for _ in members]
        for part, weight in self._parts:
            for number, value in enumerate(_values(part, members)):
                added[number] += weight * value
                parts[number][_name(part)] = value
        return list(zip(added, parts, strict=True))


def _name(part: GroupPart) -> str:
    return getattr(part, "__name__", type(part).__name__)


def _values(part: GroupPart, members: Sequence[GroupMember]) -> list[float]:
    name = _name(part)
    try:
        values = [float(value) for value in part(members)]
    except Exception as error:
        raise UsageError(f"reward: the part {name} failed for a group of {len(members)}: {told(error)}") from error
    if len(values) != len(members) or not all(map(math.isfinite, values)):
        raise UsageError(
            f"reward: the part {name} returned {values} for a group of {len(members)}: return a finite number for each"
        )
    return values
