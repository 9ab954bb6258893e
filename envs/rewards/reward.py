"""From what a user writes as `reward=` to a reward."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from envs.errors import UsageError
from envs.rewards.deepeyes import DeepEyesReward
from envs.rewards.parts import PARTS, Part
from envs.runtime.imports import load, unknown
from envs.types import Outcome

RewardSetting = Any
"""None or "deepeyes" (the paper's rule), `{"deepeyes": {"tool_discount": 1.0}}`, a part's name, `module:function` or a function, a
mapping or a list of `{part: weight}`, or a `Reward`."""

RULES: Mapping[str, Callable[..., Any]] = {"deepeyes": DeepEyesReward}
"""Whole rewards by name."""


class Reward(Protocol):
    """Scores a finished episode: the reward, and its parts by name, which are logged as `reward/<part>`."""

    async def __call__(self, outcome: Outcome) -> tuple[float, dict[str, float]]:
        """Raises InfrastructureError if the score should be asked for again: the episode is then run again."""
        ...


class WeightedParts:
    """Σ weight · part."""

    def __init__(self, parts: Sequence[tuple[Part, float]]) -> None:
        names = [_name(part) for part, _ in parts]
        if doubled := {name for name in names if names.count(name) > 1}:
            raise UsageError(f"reward: the part {min(doubled)} stands there twice: write each once, with its weight")
        self._parts = tuple(zip(names, parts, strict=True))

    async def __call__(self, outcome: Outcome) -> tuple[float, dict[str, float]]:
        """Raises UsageError for a part that does not give a finite number."""
        total, values = 0.0, {}
        for name, (part, weight) in self._parts:
            values[name] = _number(await _called(part, outcome), name, outcome)
            total += weight * values[name]
        return total, values


class _Single:
    """One callable: a part, or a whole rule that returns the reward with its parts."""

    def __init__(self, function: Callable[[Outcome], Any]) -> None:
        self._function, self._name = function, _name(function)

    async def __call__(self, outcome: Outcome) -> tuple[float, dict[str, float]]:
        returned = await _called(self._function, outcome)
        if isinstance(returned, tuple):
            reward, parts = returned
            numbers = {name: _number(value, name, outcome) for name, value in parts.items()}
            return _number(reward, self._name, outcome), numbers
        value = _number(returned, self._name, outcome)
        return value, {self._name: value}


def open_reward(setting: RewardSetting) -> Reward:
    """The reward that `setting` names. Raises UsageError for a part that does not exist, and for a weight that is no number."""
    if setting is None:
        return DeepEyesReward()
    if isinstance(setting, Mapping) and len(setting) == 1 and next(iter(setting)) in RULES:
        ((rule, options),) = setting.items()
        try:
            return RULES[rule](**(options or {}))
        except TypeError:
            raise UsageError(
                f"reward {rule}: {dict(options)}: write some of {', '.join(inspect.signature(RULES[rule]).parameters)}"
            ) from None
    if isinstance(setting, str) or callable(setting):
        return _Single(_part(setting))
    parts: list[tuple[Part, float]] = []
    for entry in setting if isinstance(setting, Sequence) else [setting]:
        for part, weight in entry.items() if isinstance(entry, Mapping) else [(entry, 1.0)]:
            if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight):
                raise UsageError(f"reward: the weight of {part} is {weight!r}: write a number, as in {{{part}: 0.5}}")
            parts.append((_part(part), float(weight)))
    if not parts:
        raise UsageError("reward is empty: write parts with weights, as in [{accuracy: 0.8}, {format: 0.2}]")
    return WeightedParts(parts)


def _part(part: str | Part) -> Any:
    if callable(part):
        return part
    if ":" in part:
        found = load(part, "reward")
        if not callable(found):
            raise UsageError(f"the reward part {part!r} is no function of an Outcome")
        return found() if isinstance(found, type) else found
    if part in RULES:
        return RULES[part]()
    if part not in PARTS:
        raise unknown("reward", part, [*RULES, *PARTS])
    return PARTS[part]


async def _called(function: Callable[[Outcome], Any], outcome: Outcome) -> Any:
    returned = function(outcome)
    return await returned if inspect.isawaitable(returned) else returned


def _number(value: Any, name: str, outcome: Outcome) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise UsageError(f"reward: the part {name} gave {value!r} for task {outcome.task.task_id}: return a finite number")
    return number


def _name(part: Part) -> str:
    return getattr(part, "__name__", type(part).__name__)
