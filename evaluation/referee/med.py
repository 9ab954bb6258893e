"""MED: what a run's checkpoints gained intrinsically, by tools, and by harm that went away. Pure NumPy.

Measure–Explain–Diagnose (arXiv 2602.01334, §3, and its code, `recipe/med/analysis_plot/create_csv.py`): each checkpoint t answers
the same items with tools and without. With w the accuracy with tools and o the one without,

    f_wo(t) = o(t) − o(0)                                    the intrinsic drift
    G(t)    = w(t) − o(t) = call gain + schema gain − call harm − schema harm
    w(t) − w(0) = f_wo(t) + (gain(t) − gain(0)) + (harm(0) − harm(t))

Gain is over items that fail without tools and are right with them, harm over the reverse; "call" is with at least one tool call,
"schema" without any, so that only the tools' presence differs. Each term is mass × policy × quality, as in call gain =
P(fail) · P(call | fail) · P(right | call, fail). With several samples an item, the terms are expectations over independent pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from evaluation.intervals import paired_difference
from evaluation.referee.figures import Figure, figure_of
from evaluation.referee.outcomes import Outcomes
from evaluation.types import Difference

_NONE = Difference(0.0, (0.0, 0.0), 1.0)
TERMS = ("call_gain", "schema_gain", "call_harm", "schema_harm")


@dataclass(frozen=True, slots=True)
class Term:
    """A term of the gap with its factors, whose product it is; a factor is None if nothing fulfils its condition."""

    value: float
    mass: float
    policy: float | None
    quality: float | None


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The figures of one checkpoint; the changes are against the first one.

    `intrinsic`, `by_tools` and `less_harm` add up to `change`, which is that of the accuracy with tools.
    """

    name: str
    items: int
    accuracy: Figure
    accuracy_without: Figure
    gap: Difference
    terms: Mapping[str, Term]
    change: Difference
    intrinsic: Difference
    by_tools: Difference
    less_harm: Difference


@dataclass(frozen=True, slots=True)
class Med:
    """The checkpoints in order, and what became of each item.

    `tool_share`: |Δ_tool| / (|f_wo| + |Δ_tool|), of the areas under the absolute changes over the checkpoints, which are taken as
    evenly spaced (the paper's S_tool); Δ_tool(t) = G(t) − G(0). None if nothing changed.
    `items` has a row for each: task, need, and by checkpoint its pass rates with and without tools, its share of episodes with a
    call, and the three changes.
    """

    checkpoints: tuple[Checkpoint, ...]
    tool_share: float | None
    items: tuple[Mapping[str, object], ...]


def med(by_checkpoint: Mapping[str, Outcomes]) -> Med:
    """The figures of checkpoints that answered the same items, the first one being the reference.

    Raises ValueError if there is no checkpoint, or if their items differ.
    """
    if not by_checkpoint:
        raise ValueError("there is no checkpoint")
    first = next(iter(by_checkpoint.values()))
    if differing := [name for name, outcomes in by_checkpoint.items() if outcomes.task_ids != first.task_ids]:
        raise ValueError(f"{differing[0]} did not answer the same items as {next(iter(by_checkpoint))}")
    checkpoints = tuple(_checkpoint(name, outcomes, first) for name, outcomes in by_checkpoint.items())
    return Med(checkpoints, _tool_share(checkpoints), _items(by_checkpoint, first))


def terms(outcomes: Outcomes) -> dict[str, np.ndarray]:
    """What each item adds to each of `TERMS`: arrays of shape (N,) whose means are the terms."""
    solved, called, right = outcomes.without_N, outcomes.called_N, outcomes.called_correct_N
    quiet_right = outcomes.correct_N - right
    return {
        "call_gain": (1 - solved) * right,
        "schema_gain": (1 - solved) * quiet_right,
        "call_harm": solved * (called - right),
        "schema_harm": solved * (1 - called - quiet_right),
    }


def changes(outcomes: Outcomes, first: Outcomes) -> dict[str, np.ndarray]:
    """What each item adds to the three changes against `first`, (N,) each: they add up to that of its rate with tools."""
    now, then = terms(outcomes), terms(first)
    return {
        "intrinsic": outcomes.without_N - first.without_N,
        "by_tools": sum(now[name] - then[name] for name in ("call_gain", "schema_gain")) + 0.0,
        "less_harm": sum(then[name] - now[name] for name in ("call_harm", "schema_harm")) + 0.0,
    }


def _checkpoint(name: str, outcomes: Outcomes, first: Outcomes) -> Checkpoint:
    zero_N = np.zeros(len(outcomes.task_ids))
    values = {"change": outcomes.correct_N - first.correct_N, **changes(outcomes, first)}
    # The first one's change against itself is known, not measured.
    parts = {part: _NONE if outcomes is first else paired_difference(zero_N, values_N) for part, values_N in values.items()}
    return Checkpoint(
        name=name,
        items=len(outcomes.task_ids),
        accuracy=figure_of(outcomes.correct_N),
        accuracy_without=figure_of(outcomes.without_N),
        gap=paired_difference(outcomes.without_N, outcomes.correct_N),
        terms=_factored(outcomes),
        **parts,
    )


def _factored(outcomes: Outcomes) -> dict[str, Term]:
    values = {name: float(values_N.mean()) for name, values_N in terms(outcomes).items()}
    fail_N, solved_N, called_N = 1 - outcomes.without_N, outcomes.without_N, outcomes.called_N
    domains = {"call_gain": (fail_N, called_N), "schema_gain": (fail_N, 1 - called_N)}
    domains |= {"call_harm": (solved_N, called_N), "schema_harm": (solved_N, 1 - called_N)}
    factored = {}
    for name, (domain_N, acting_N) in domains.items():
        mass, both = float(domain_N.mean()), float((domain_N * acting_N).mean())
        factored[name] = Term(values[name], mass, both / mass if mass else None, values[name] / both if both else None)
    return factored


def _tool_share(checkpoints: Sequence[Checkpoint]) -> float | None:
    intrinsic = np.array([checkpoint.intrinsic.value for checkpoint in checkpoints])
    by_tools = np.array([checkpoint.by_tools.value + checkpoint.less_harm.value for checkpoint in checkpoints])
    areas = [float(np.trapezoid(np.abs(values))) for values in (intrinsic, by_tools)]
    return areas[1] / sum(areas) if sum(areas) else None


def _items(by_checkpoint: Mapping[str, Outcomes], first: Outcomes) -> tuple[Mapping[str, object], ...]:
    parts = {name: changes(outcomes, first) for name, outcomes in by_checkpoint.items()}
    return tuple(
        {
            "task_id": task_id,
            "needed": None if np.isnan(first.label_N[place]) else bool(first.label_N[place]),
            "checkpoints": {
                name: {
                    "with": float(outcomes.correct_N[place]),
                    "without": float(outcomes.without_N[place]),
                    "called": float(outcomes.called_N[place]),
                    **{part: float(values_N[place]) for part, values_N in parts[name].items()},
                }
                for name, outcomes in by_checkpoint.items()
            },
        }
        for place, task_id in enumerate(first.task_ids)
    )
