"""Two evaluations of the same items, compared item by item."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.table import Table

from envs.errors import UsageError
from evaluation.intervals import paired_difference
from evaluation.types import Interval
from rollout.store import Store


@dataclass(frozen=True, slots=True)
class Comparison:
    """Accuracies of two runs on the same items and their difference, second minus first, with its paired interval
    (`evaluation.intervals.paired_difference`).

    If each item has one episode, `only_first` and `only_second` are the numbers of items that one run alone solved, and `p` is
    McNemar's exact p-value; else they are None. `left_out` is the number of episodes that failed in one of them: their items are
    compared over the episodes that are left, if there are any.
    """

    first: str
    second: str
    items: int
    left_out: int
    accuracy: tuple[float, float]
    difference: float
    ci95: Interval
    only_first: int | None = None
    only_second: int | None = None
    p: float | None = None


def compare(first: str, second: str) -> Comparison:
    """Compare two run directories. Items without an outcome in one of them are left out.

    Raises UsageError if the two did not run the same items.
    """
    (one, failed), (other, failed_too) = _outcomes(first), _outcomes(second)
    differing = len(one.keys() ^ other.keys())
    if differing > failed + failed_too:
        raise UsageError(
            f"{first} and {second} did not run the same items ({differing} differ): evaluate both with the same tasks and seed"
        )
    items = sorted(one.keys() & other.keys())
    if not items:
        raise UsageError(f"{first} and {second} have no item in common that has an outcome in both: evaluate one of them again")
    means = [np.array([np.mean(run[item]) for item in items]) for run in (one, other)]
    difference = means[1] - means[0]
    paired = paired_difference(*means)
    only_first = only_second = p = None
    if all(len(run[item]) == 1 for run in (one, other) for item in items):
        only_first, only_second = int((difference < 0).sum()), int((difference > 0).sum())
        p = paired.p
    return Comparison(
        first=first,
        second=second,
        items=len(items),
        left_out=failed + failed_too,
        accuracy=(float(means[0].mean()), float(means[1].mean())),
        difference=paired.value,
        ci95=paired.ci95,
        only_first=only_first,
        only_second=only_second,
        p=p,
    )


def comparison_table(comparison: Comparison) -> Table:
    """One figure a row."""
    low, high = comparison.ci95
    result = Table("", "value", title="Comparison, item by item", title_justify="left")
    for name, accuracy in zip((comparison.first, comparison.second), comparison.accuracy, strict=True):
        result.add_row(f"accuracy of {name}", f"{100 * accuracy:.1f} %")
    result.add_row("difference (95 %)", f"{100 * comparison.difference:+.1f} points ({100 * low:+.1f} to {100 * high:+.1f})")
    result.add_row("items", str(comparison.items))
    if comparison.left_out:
        result.add_row("episodes left out: infrastructure failed", str(comparison.left_out))
    if comparison.p is not None:
        result.add_row("solved by the first alone, by the second alone", f"{comparison.only_first}, {comparison.only_second}")
        result.add_row("p (McNemar, exact)", f"{comparison.p:.3g}")
    return result


def _outcomes(directory: str) -> tuple[dict[str, list[bool]], int]:
    """Whether each episode of an item was right, by task, and how many episodes failed, whose items may be missing."""
    store = Store(Path(directory))
    if "episodes" not in store.names():
        raise UsageError(
            f"{directory} holds no evaluation: write directories that `toolwise evaluate` made, compare=[runs/a,runs/b]"
        )
    items: dict[str, list[bool]] = {}
    failed = 0
    for group in store.groups("episodes", images=False):
        failed += len(group.episodes) - len(group.sound)
        for episode in group.sound:
            items.setdefault(episode.trajectory.task_id, []).append(episode.trajectory.correct)
    return items, failed
