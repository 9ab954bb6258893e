"""Two evaluations of the same items, compared item by item."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.table import Table

from envs.errors import UsageError
from envs.runtime.regular_file import read_text
from evaluation.intervals import paired_difference
from evaluation.types import Interval
from rollout.store import Store

CLUSTERS = "clusters.json"
"""The file in which an evaluation says by task which items ask the same question, if several do."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Accuracies of two runs on the same items and their difference, second minus first, with its paired interval
    (`evaluation.intervals.paired_difference`).

    If each item has one episode, `only_first` and `only_second` are the numbers of items that one run alone solved, and `p` is
    McNemar's exact p-value; else they are None. `left_out` is the number of episodes that failed in one of them: their items are
    compared over the episodes that are left, if there are any. If several items ask the same question (`CLUSTERS`), the interval is
    over the `clusters`, each weighted by its items; their number is None if each item is one.
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
    clusters: int | None = None


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
    known = _clusters(first) or _clusters(second)
    places = np.unique([known.get(item, f"item {item}") for item in items], return_inverse=True)[1]
    sizes = np.bincount(places)
    paired = paired_difference(*(np.bincount(places, weights=of) / sizes for of in means), sizes)
    only_first = only_second = p = None
    if len(sizes) == len(items) and all(len(run[item]) == 1 for run in (one, other) for item in items):
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
        clusters=len(sizes) if len(sizes) < len(items) else None,
    )


def comparison_table(comparison: Comparison) -> Table:
    """One figure a row."""
    low, high = comparison.ci95
    result = Table("", "value", title="Comparison, item by item", title_justify="left")
    for name, accuracy in zip((comparison.first, comparison.second), comparison.accuracy, strict=True):
        result.add_row(f"accuracy of {name}", f"{100 * accuracy:.1f} %")
    result.add_row("difference (95 %)", f"{100 * comparison.difference:+.1f} points ({100 * low:+.1f} to {100 * high:+.1f})")
    result.add_row("items", str(comparison.items))
    if comparison.clusters is not None:
        result.add_row("questions, each of several items, which the interval is over", str(comparison.clusters))
    if comparison.left_out:
        result.add_row("episodes left out: infrastructure failed", str(comparison.left_out))
    if comparison.p is not None:
        result.add_row("solved by the first alone, by the second alone", f"{comparison.only_first}, {comparison.only_second}")
        result.add_row("p (McNemar, exact)", f"{comparison.p:.3g}")
    return result


def _clusters(directory: str) -> dict[str, str]:
    """By task, the question that it asks; {} if each asks its own. Raises UsageError for a file that cannot be read."""
    path = Path(directory, CLUSTERS)
    if not path.exists():
        return {}
    try:
        return {str(task): str(cluster) for task, cluster in json.loads(read_text(path)).items()}
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise UsageError(f"{path} cannot be read: {error}: write it again, with evaluate out={directory} resume=true") from None


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
