"""Episodes of the same items with tools and without, as arrays.

Axes: N items, each with the samples that were drawn of it. With one sample an item all values are 0 or 1; with more, they are pass
rates, and products of a rate with tools and one without are expectations, as the two are sampled independently.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import mul

import numpy as np

from evaluation.ablation import FULL
from evaluation.items import item_means
from rollout.types import Trajectory

WITHOUT = "without tools"
TEXT_EASY, TEXT_HARD = 0.8, 0.2
"""Beacon's thresholds (arXiv 2607.28595, §3.1): at least 4, at most 1 of 5 right without tools. Between them, need is ambiguous."""


@dataclass(frozen=True, slots=True)
class Outcomes:
    """N items with tools and without, as shares of each item's samples.

    `correct_N`: right with tools. `called_N`: at least one call. `called_correct_N`: both. `without_N`: right without tools.
    `label_N`: whether the task says that it needs a tool, NaN if it does not say. All are float64 of shape (N,).
    """

    task_ids: tuple[str, ...]
    correct_N: np.ndarray
    called_N: np.ndarray
    called_correct_N: np.ndarray
    without_N: np.ndarray
    label_N: np.ndarray

    @property
    def labelled(self) -> tuple[np.ndarray, np.ndarray]:
        """Masks (N,) of the items that need a tool, and that need none, by their tasks' labels."""
        return self.label_N == 1, self.label_N == 0

    @property
    def measured(self) -> tuple[np.ndarray, np.ndarray]:
        """Masks (N,) of the items that this policy does not solve without tools (text-hard), and that it does (text-easy)."""
        # A share of 4/5 must not fail for its last bit.
        return self.without_N <= TEXT_HARD + 1e-9, self.without_N >= TEXT_EASY - 1e-9


def outcomes_of(by_variant: Mapping[str, Sequence[Trajectory]]) -> Outcomes:
    """The items of episodes as `evaluation.ablation.paired` returns them, of which the variants `FULL` and `WITHOUT` are read."""
    full, without = by_variant[FULL], by_variant[WITHOUT]
    called = [float(episode.tool_calls > 0) for episode in full]
    correct = [float(episode.correct) for episode in full]
    return Outcomes(
        task_ids=tuple({episode.group_id: episode.task_id for episode in full}.values()),
        correct_N=item_means(full, correct),
        called_N=item_means(full, called),
        called_correct_N=item_means(full, map(mul, called, correct)),
        without_N=item_means(without, [episode.correct for episode in without]),
        label_N=item_means(full, [np.nan if episode.needs_tool is None else episode.needs_tool for episode in full]),
    )
