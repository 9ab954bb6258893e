"""Types of an evaluation: the records of `evaluation.json`, and their form in JSON.

A record in JSON is one flat object, as DESIGN §2 gives it. Accuracies and shares are fractions; `ci95` are the bounds of a 95 %
interval. What is None is not in the JSON, so that records of fewer fields are read and written as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self

Interval = tuple[float, float]
"""Lower and upper bound."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A difference of two means over the same items, with its 95 % interval and the p-value of a paired test that it is 0."""

    value: float
    ci95: Interval
    p: float


@dataclass(frozen=True, slots=True)
class CallsPerEpisode:
    """Tool calls of an episode: their mean and their population variance."""

    mean: float
    var: float


@dataclass(frozen=True, slots=True)
class SecondsPerEpisode:
    """What an episode waits for, in the mean: the policy and the tools."""

    generate: float
    tool: float


@dataclass(frozen=True, slots=True)
class NeedResults:
    """Results on tasks that need a tool, or on those that do not. `tool_use` is the share of episodes with at least one call."""

    episodes: int
    accuracy: float
    tool_use: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """Results on some episodes. `pass_at_k` is keyed by k, `by_need` by "needed" and "not_needed", if that is known."""

    episodes: int
    accuracy: float
    ci95: Interval
    pass_at_k: dict[str, float] | None = None
    calls_per_episode: CallsPerEpisode
    by_need: dict[str, NeedResults] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {name: _plain(getattr(self, name)) for name in _RESULTS if getattr(self, name) is not None}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`. Raises ValueError for what is no such record."""
        try:
            return cls(**_results(record))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"not results of an evaluation: {error}") from error


_RESULTS = tuple(each.name for each in fields(Results))


@dataclass(frozen=True, slots=True)
class Problem:
    """A task whose question could not be put to the policy, or whose episode failed, and why."""

    task: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationRecord(Results):
    """One record of `evaluation.json`: the results of one policy on one set of tasks, and by ability.

    `tools` are those that were on, if the tasks have any to choose from. `settings` is what else a repetition needs; its entries
    stand among the others in the JSON. An episode of several abilities counts for each of them. By tool: `calls_by_tool` are means
    over all episodes, `errors_by_tool` shares of the calls. `ends` are shares of stop reasons.

    `left_out` is the number of episodes that are in no figure: they failed for infrastructure reasons after all retries. `unplayed`
    is the number of those whose question could not be put to the policy: they are wrong in every figure. `problems` names the first
    of both. `unjudged` is the number of answers on which the judge gave no verdict: they are wrong, too.
    """

    label: str
    policy: str
    tasks: str
    seed: int
    temperature: float
    tools: tuple[str, ...] | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    calls_by_tool: dict[str, float] | None = None
    errors_by_tool: dict[str, float] | None = None
    tokens_per_episode: float | None = None
    seconds_per_episode: SecondsPerEpisode | None = None
    ends: dict[str, float] | None = None
    left_out: int = 0
    unplayed: int = 0
    unjudged: int = 0
    problems: tuple[Problem, ...] = ()
    by_ability: dict[str, Results] = field(default_factory=dict)

    @property
    def dispatched(self) -> int:
        """Number of episodes that were run, with those that are left out."""
        return self.episodes + self.left_out

    @property
    def problem_share(self) -> float:
        """The share of the episodes that are left out, were not played or not judged."""
        return (self.left_out + self.unplayed + self.unjudged) / self.dispatched

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON."""
        plain = {name: _plain(getattr(self, name)) for name in (*_FACTS, *_EFFORT) if getattr(self, name) is not None}
        return {
            **{name: plain[name] for name in _FACTS if name in plain},
            **self.settings,
            **Results.to_json(self),
            **{name: plain[name] for name in _EFFORT if name in plain},
            "by_ability": {name: results.to_json() for name, results in self.by_ability.items()},
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`: fields of other names are `settings`. Raises ValueError for what is no record."""
        try:
            rest = {name: value for name, value in record.items() if name not in (*_RESULTS, "by_ability")}
            known = {name: rest.pop(name) for name in (*_FACTS, *_EFFORT) if name in rest}
            if known.get("tools") is not None:
                known["tools"] = tuple(known["tools"])
            if known.get("seconds_per_episode") is not None:
                known["seconds_per_episode"] = SecondsPerEpisode(**known["seconds_per_episode"])
            known["problems"] = tuple(Problem(**problem) for problem in known.get("problems", ()))
            by_ability = {name: Results.from_json(part) for name, part in record.get("by_ability", {}).items()}
            return cls(**known, **_results(record), settings=rest, by_ability=by_ability)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"not an evaluation record: {error}") from error


_FACTS = ("label", "policy", "tasks", "seed", "temperature", "tools")
_EFFORT = (
    "calls_by_tool",
    "errors_by_tool",
    "tokens_per_episode",
    "seconds_per_episode",
    "ends",
    "left_out",
    "unplayed",
    "unjudged",
    "problems",
)


def _results(record: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `Results` in a record of JSON, as its constructor takes them."""
    values = {name: record[name] for name in _RESULTS if name in record}
    low, high = values["ci95"]
    values["ci95"] = (low, high)
    values["calls_per_episode"] = CallsPerEpisode(**values["calls_per_episode"])
    values["by_need"] = {name: NeedResults(**part) for name, part in values.get("by_need", {}).items()}
    return values


def _plain(value: Any) -> Any:
    """Dataclasses as dicts, tuples as lists."""
    if isinstance(value, tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, dict):
        return {name: _plain(entry) for name, entry in value.items()}
    return asdict(value) if hasattr(value, "__dataclass_fields__") else value
