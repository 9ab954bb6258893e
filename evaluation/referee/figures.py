"""What tool use was worth: mode adaptiveness, tool effect, and what is solved without tools as well. Pure NumPy.

Every figure has a 95 % interval over items: Wilson's if each item is either a success or not, as with one sample each, or if all
have the same share, else the bootstrap's, always with the same draws. A figure over two sets of items, of those that need a tool
and of those that do not, combines the intervals of both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evaluation.intervals import paired_difference, resamples, shares_interval, wilson_interval
from evaluation.referee.outcomes import Outcomes
from evaluation.types import Difference, Interval

_DRAWS = 4000


@dataclass(frozen=True, slots=True)
class Figure:
    """A value with its 95 % interval."""

    value: float
    ci95: Interval


@dataclass(frozen=True, slots=True)
class Adaptiveness:
    """Whether tools are called if and only if they are needed (mode adaptiveness, arXiv 2607.28595, §3.1).

    `tool`: share of episodes with a call on items that need one. `text`: share without a call on items that need none. `mean`: of
    the two; a policy that always calls, or never, has 0.5. `p`: how often calls that are dealt to the items at random reach that
    mean (permutation test, one-sided).
    """

    needed: int
    not_needed: int
    tool: Figure
    text: Figure
    mean: Figure
    p: float


@dataclass(frozen=True, slots=True)
class ToolEffect:
    """What calls changed (tool effect, arXiv 2607.28595, §3.2).

    `gain`: on items that are unsolved without tools, share of episodes that call and are right. `harm`: on items that are solved
    without, share that call and are wrong. `net` is gain minus harm. `text_retain`: on items that are solved without, share of the
    episodes without a call that are right; None if there is none.
    """

    unsolved: int
    solved: int
    gain: Figure
    harm: Figure
    net: Figure
    text_retain: float | None


@dataclass(frozen=True, slots=True)
class Judgement:
    """The referee's figures of one policy. What its items do not allow is None: no label, or no item on one of the two sides.

    `ambiguous` is the number of items that are solved without tools neither seldom nor mostly, and so are in no figure that is
    `measured`; `unsolved` and `solved` are those on the two sides, `needed` and `not_needed` those by label. `also_without`: of
    what the policy solves with a call, the share that it solves without tools as well (arXiv 2606.02357). `difference`: accuracy
    with tools minus without.
    """

    items: int
    ambiguous: int
    unsolved: int
    solved: int
    needed: int
    not_needed: int
    accuracy: Figure
    accuracy_without: Figure
    difference: Difference
    also_without: Figure | None
    adaptiveness_labelled: Adaptiveness | None
    adaptiveness_measured: Adaptiveness | None
    tool_effect: ToolEffect | None


def judge(outcomes: Outcomes) -> Judgement:
    """All figures. Raises ValueError if there is no item."""
    (hard, easy), (needed, not_needed) = outcomes.measured, outcomes.labelled
    return Judgement(
        items=len(outcomes.task_ids),
        ambiguous=int((~hard & ~easy).sum()),
        unsolved=int(hard.sum()),
        solved=int(easy.sum()),
        needed=int(needed.sum()),
        not_needed=int(not_needed.sum()),
        accuracy=figure_of(outcomes.correct_N),
        accuracy_without=figure_of(outcomes.without_N),
        difference=paired_difference(outcomes.without_N, outcomes.correct_N),
        also_without=also_without(outcomes),
        adaptiveness_labelled=adaptiveness(outcomes.called_N, needed, not_needed),
        adaptiveness_measured=adaptiveness(outcomes.called_N, hard, easy),
        tool_effect=tool_effect(outcomes),
    )


def adaptiveness(called_N: np.ndarray, needed_N: np.ndarray, not_needed_N: np.ndarray) -> Adaptiveness | None:
    """See `Adaptiveness`. The last two are masks, (N,); None if either has no item."""
    if not needed_N.any() or not not_needed_N.any():
        return None
    tool_N, text_N = called_N[needed_N], 1 - called_N[not_needed_N]
    tool, text = figure_of(tool_N), figure_of(text_N)
    return Adaptiveness(
        needed=len(tool_N),
        not_needed=len(text_N),
        tool=tool,
        text=text,
        mean=_combined(tool, text, 0.5, 0.5),
        p=_permutation_p(tool_N, 1 - text_N),
    )


def tool_effect(outcomes: Outcomes) -> ToolEffect | None:
    """See `ToolEffect`; None if every item, or none, is solved without tools."""
    hard, easy = outcomes.measured
    if not hard.any() or not easy.any():
        return None
    gain = figure_of(outcomes.called_correct_N[hard])
    harm = figure_of((outcomes.called_N - outcomes.called_correct_N)[easy])
    quiet = (1 - outcomes.called_N[easy]).sum()
    retained = (outcomes.correct_N - outcomes.called_correct_N)[easy].sum()
    return ToolEffect(
        unsolved=int(hard.sum()),
        solved=int(easy.sum()),
        gain=gain,
        harm=harm,
        net=_combined(gain, harm, 1.0, -1.0),
        text_retain=float(retained / quiet) if quiet > 0 else None,
    )


def also_without(outcomes: Outcomes) -> Figure | None:
    """See `Judgement`: Σ c·w / Σ c, with c an item's share of right episodes with a call and w its pass rate without tools; None if
    nothing is solved with a call."""
    solved_N = outcomes.called_correct_N
    if not solved_N.sum():
        return None
    if np.isin(solved_N, (0.0, 1.0)).all():
        return figure_of(outcomes.without_N[solved_N == 1])
    both_N = solved_N * outcomes.without_N
    drawn = [(both_N[draws].sum(axis=1), solved_N[draws].sum(axis=1)) for draws in resamples(len(solved_N))]
    both, below = (np.concatenate(part) for part in zip(*drawn, strict=True))
    shares = both[below > 0] / below[below > 0]  # a draw that holds no solved item has no share
    value, low, high = float(both_N.sum() / solved_N.sum()), *map(float, np.percentile(shares, [2.5, 97.5]))
    if np.ptp(outcomes.without_N[solved_N > 0]) == 0:  # the bootstrap has no width then
        low, high = wilson_interval(value * (items := int((solved_N > 0).sum())), items)
    return Figure(value, (low, high))


def figure_of(values_N: np.ndarray) -> Figure:
    """The mean of N items' values, with its interval: see the module. Raises ValueError if there is none."""
    if not len(values_N):
        raise ValueError("there is no item")
    binary = np.isin(values_N, (0.0, 1.0)).all()
    interval = wilson_interval(float(values_N.sum()), len(values_N)) if binary else shares_interval(values_N)
    return Figure(float(values_N.mean()), interval)


def _combined(first: Figure, second: Figure, of_first: float, of_second: float) -> Figure:
    """A weighted sum of two figures over different items; its interval by MOVER (Zou and Donner, Statist. Med. 27, 2008, eq. 4),
    which for a difference of Wilson's is Newcombe's."""
    parts = [(weight * one.value, [weight * end for end in one.ci95]) for one, weight in ((first, of_first), (second, of_second))]
    value = sum(mean for mean, _ in parts)
    below = math.sqrt(sum((mean - min(ends)) ** 2 for mean, ends in parts))
    above = math.sqrt(sum((max(ends) - mean) ** 2 for mean, ends in parts))
    return Figure(value, (value - below, value + above))


def _permutation_p(needed_N: Sequence[float] | np.ndarray, others_M: Sequence[float] | np.ndarray) -> float:
    """The share of random divisions of all items into N and M whose difference of mean call rates is at least the observed one; the
    observed one counts as a division (Phipson and Smyth, SAGMB 9, 2010, eq. 2)."""
    everything, first = np.concatenate([needed_N, others_M]), len(needed_N)
    observed = np.mean(needed_N) - np.mean(others_M)
    # How many of each value fall to the first part is what a random division decides.
    values, counts = np.unique(everything, return_counts=True)
    sums = np.random.default_rng(0).multivariate_hypergeometric(counts, first, size=_DRAWS) @ values
    reached = sums / first - (everything.sum() - sums) / (len(everything) - first) >= observed - 1e-9
    return float((reached.sum() + 1) / (_DRAWS + 1))
