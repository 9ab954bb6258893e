"""Opens the reward that the setting `reward=` names."""

from __future__ import annotations

import functools
import inspect
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from envs.errors import InfrastructureError, UsageError
from envs.rewards.deepeyes import DeepEyesReward
from envs.rewards.group import GROUP_PARTS, GroupPart, GroupReward, is_group_part
from envs.rewards.parts import PARTS, Part
from envs.runtime.failures import told
from envs.runtime.imports import load, unknown
from envs.runtime.loops import PerLoop
from envs.runtime.threads import Threads
from envs.types import Outcome

RewardSetting = Any
"""None or "deepeyes" (the paper's rule), `{"deepeyes": {"tool_discount": 1.0}}`, a part's name, `module:function` or a function, a
mapping or a list of `{part: weight}`, or a `Reward`. A whole rule may be one of the weighted parts: its reward is their value.
Parts of a group (`envs.rewards.group`) add nothing to an episode by itself: `open_group_reward` opens them for the learner."""

_BLOCKING_PARTS = 64
_threads = PerLoop(lambda: Threads(_BLOCKING_PARTS))

RULES: Mapping[str, Callable[..., Any]] = {"deepeyes": DeepEyesReward}
"""Whole rewards by name."""


class Reward(Protocol):
    """Scores a finished episode: the reward, and its parts by name, which are logged as `reward/<part>`.

    One that knows the names of its parts before has them as `part_names`.
    """

    async def __call__(self, outcome: Outcome) -> tuple[float, dict[str, float]]:
        """Raises InfrastructureError if scoring failed and should be repeated: the episode is then run again."""
        ...


class WeightedParts:
    """A weighted sum of parts: Σ weight · part, over the parts of one episode."""

    def __init__(self, parts: Sequence[tuple[Part, float]]) -> None:
        names = [_name(part) for part, _ in parts]
        if doubled := {name for name in names if names.count(name) > 1}:
            raise UsageError(f"reward: the part {min(doubled)} is listed twice: write each once, with its weight")
        named = zip(names, parts, strict=True)
        self._parts = tuple((name, (part, weight)) for name, (part, weight) in named if not is_group_part(part))
        self._names = [_names_of(part) for part, _ in parts]

    @property
    def part_names(self) -> frozenset[str] | None:
        """The names of all parts, those of a group included; None if one is a function that may return parts of its own."""
        known = [names for names in self._names if names is not None]
        return frozenset[str]().union(*known) if len(known) == len(self._names) else None

    async def __call__(self, outcome: Outcome) -> tuple[float, dict[str, float]]:
        """Raises UsageError if a part does not return a finite number."""
        total, values, inner = 0.0, {}, {}
        for name, (part, weight) in self._parts:
            values[name], parts = _reward(await _called(part, name, outcome), name, outcome)
            inner |= parts
            total += weight * values[name]
        return total, inner | values


class _Single:
    """One callable: a part, or a whole rule that returns the reward with its parts."""

    def __init__(self, function: Callable[[Outcome], Any]) -> None:
        self._function, self._name = function, _name(function)
        self.part_names = _names_of(function)

    async def __call__(self, outcome: Outcome) -> tuple[float, dict[str, float]]:
        returned = await _called(self._function, self._name, outcome)
        reward, parts = _reward(returned, self._name, outcome)
        return reward, (parts if isinstance(returned, tuple) else {self._name: reward})


def open_reward(setting: RewardSetting) -> Reward:
    """The reward that `setting` names. Raises UsageError if a part does not exist or a weight is not a number."""
    if setting is None:
        return DeepEyesReward()
    if isinstance(setting, Mapping) and len(setting) == 1 and next(iter(setting)) in RULES:
        ((rule, options),) = setting.items()
        if options is None or isinstance(options, Mapping):
            try:
                return RULES[rule](**(options or {}))
            except TypeError:
                raise UsageError(
                    f"reward {rule}: {dict(options or {})}: write some of {', '.join(inspect.signature(RULES[rule]).parameters)}"
                ) from None
    if isinstance(setting, str) or callable(setting):
        part = _part(setting)
        return WeightedParts([(part, 1.0)]) if is_group_part(part) else _Single(part)
    if not isinstance(setting, Mapping | Sequence):
        raise UsageError(f"reward={setting!r}: write a part, module:function, or parts with weights, as in [{{accuracy: 0.8}}]")
    parts: list[tuple[Part, float]] = []
    for part, weight in _entries(setting):
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight):
            raise UsageError(f"reward: the weight of {part} is {weight!r}: write a number, as in {{{part}: 0.5}}")
        parts.append((_part(part), float(weight)))
    if not parts:
        raise UsageError("reward is empty: write parts with weights, as in [{accuracy: 0.8}, {format: 0.2}]")
    return WeightedParts(parts)


def open_group_reward(setting: RewardSetting) -> GroupReward | None:
    """The weighted group parts of a setting that `open_reward` has accepted; None if there are none.

    What an environment of another kind understands by its option `reward` has none either.
    """
    parts: list[tuple[GroupPart, float]] = []
    for entry, weight in _entries(setting) if isinstance(setting, Mapping | Sequence) else [(setting, 1.0)]:
        try:
            found = _found(entry)
        except UsageError:
            continue
        if is_group_part(found):  # an instance of any other, which may load a model, is not the learner's to make
            parts.append((_instance(found), float(weight)))
    return GroupReward(parts) if parts else None


def _entries(setting: Any) -> Iterator[tuple[Any, Any]]:
    """Each part with its weight."""
    if isinstance(setting, str):
        setting = [setting]
    for entry in setting if isinstance(setting, Sequence) else [setting]:
        yield from map(_unsplit, entry.items()) if isinstance(entry, Mapping) else [(entry, 1.0)]


def _unsplit(pair: tuple[Any, Any]) -> tuple[Any, Any]:
    """Hydra reads `{module:part: 0.2}` as the key `module` with the value "part: 0.2"."""
    part, weight = pair
    if isinstance(weight, str) and (match := re.fullmatch(r"([\w.]+)\s*:\s*(\S+)", weight)):
        try:
            return f"{part}:{match.group(1)}", float(match.group(2))
        except ValueError:
            pass
    return pair


def _part(part: Any) -> Any:
    return _instance(_found(part))


def _found(part: Any) -> Any:
    """What a setting names: a function, or a class that makes one."""
    if isinstance(part, str) and ":" in part:
        function = load(part, "reward")
    elif callable(part):
        function = part
    elif isinstance(part, str):
        return _named(part)
    else:
        function = None
    if not callable(function):
        raise UsageError(f"the reward part {part!r} is not a function of an Outcome")
    return function


def _instance(function: Any) -> Any:
    if not isinstance(function, type):
        return function
    try:
        instance = function()
    except TypeError as error:
        raise UsageError(f"the reward part {function.__name__} cannot be created: {error}; write an instance of it") from error
    if not callable(instance):
        raise UsageError(f"the reward part {function.__name__} is not a function of an Outcome: give it __call__")
    return instance


def _named(part: str) -> Any:
    if part in RULES:
        return RULES[part]
    known = {**PARTS, **GROUP_PARTS}
    if part not in known:
        raise unknown("reward", part, [*RULES, *known])
    return known[part]


async def _called(function: Callable[[Outcome], Any], name: str, outcome: Outcome) -> Any:
    """What a part returns; one that is not a coroutine runs on a thread, so that it holds up no other episode."""
    try:
        returned = await _threads.get().run(function, outcome)
        return await returned if inspect.isawaitable(returned) else returned
    except (InfrastructureError, UsageError):
        raise
    except Exception as error:
        raise UsageError(f"reward: the part {name} failed for task {outcome.task.task_id}: {told(error)}") from error


def _names_of(part: Any) -> frozenset[str] | None:
    """The names under which a part is logged; None if only a call can tell."""
    if is_group_part(part) or part in PARTS.values():
        return frozenset({_name(part)})
    return part.part_names | {_name(part)} if isinstance(part, DeepEyesReward) else None


def _reward(returned: Any, name: str, outcome: Outcome) -> tuple[float, dict[str, float]]:
    """The number that a part returned, or the reward of a whole rule with its parts."""
    if not isinstance(returned, tuple):
        return _number(returned, name, outcome), {}
    if len(returned) != 2 or not isinstance(returned[1], Mapping):
        raise UsageError(
            f"reward: {name} returned {returned!r} for task {outcome.task.task_id}: return a number, or (number, {{part: number}})"
        )
    reward, parts = returned
    return _number(reward, name, outcome), {str(part): _number(value, part, outcome) for part, value in parts.items()}


def _number(value: Any, name: str, outcome: Outcome) -> float:
    try:
        number = math.nan if isinstance(value, str | bytes) else float(value)
    except Exception:  # a tensor, for example, may raise anything
        number = math.nan
    if not math.isfinite(number):
        raise UsageError(f"reward: the part {name} returned {value!r} for task {outcome.task.task_id}: return a finite number")
    return number


def _name(part: Any) -> str:
    while isinstance(part, functools.partial):
        part = part.func
    named = next((name for name, rule in RULES.items() if isinstance(rule, type) and isinstance(part, rule)), None)
    return named or getattr(part, "__name__", type(part).__name__)
