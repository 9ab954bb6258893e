"""Two evaluations of the same items, compared item by item."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from envs.errors import UsageError
from evaluation.intervals import bootstrap_interval, mcnemar_p
from rollout.store import Store
from rollout.types import join_chains


def compare(first: str, second: str) -> dict[str, Any]:
    """Accuracies of two run directories and their difference, second minus first, with a paired bootstrap interval over items.

    Where each item has one episode, also McNemar's exact p. Items that the machine failed in one run are left out. Raises
    UsageError where the two did not run the same items.
    """
    (one, failed), (other, failed_too) = _by_item(first), _by_item(second)
    differing = len(one.keys() ^ other.keys())
    if differing > failed + failed_too:
        raise UsageError(
            f"{first} and {second} did not run the same items ({differing} differ): evaluate both with the same tasks and seed"
        )
    runs = (one, other)
    items = sorted(one.keys() & other.keys())
    means = [np.array([np.mean(run[item]) for item in items]) for run in runs]
    difference = means[1] - means[0]
    report: dict[str, Any] = {
        "first": first,
        "second": second,
        "items": len(items),
        "accuracy": [float(mean.mean()) for mean in means],
        "difference": float(difference.mean()),
        "ci95": bootstrap_interval(difference),
    }
    if all(len(run[item]) == 1 for run in runs for item in items):
        report["only_first"], report["only_second"] = int((difference < 0).sum()), int((difference > 0).sum())
        report["p"] = mcnemar_p(report["only_first"], report["only_second"])
    return report


def comparison_table(report: dict[str, Any]) -> Table:
    """The report in one row a line."""
    low, high = report["ci95"]
    shown = Table("", "value", title="Comparison, item by item", title_justify="left")
    for name, accuracy in zip((report["first"], report["second"]), report["accuracy"], strict=True):
        shown.add_row(f"accuracy of {name}", f"{100 * accuracy:.1f} %")
    shown.add_row("difference (95 %)", f"{100 * report['difference']:+.1f} points ({100 * low:+.1f} to {100 * high:+.1f})")
    shown.add_row("items", str(report["items"]))
    if "p" in report:
        shown.add_row("solved by the first alone, by the second alone", f"{report['only_first']}, {report['only_second']}")
        shown.add_row("p (McNemar, exact)", f"{report['p']:.3g}")
    return shown


def _by_item(directory: str) -> tuple[dict[str, list[bool]], int]:
    """Outcomes by item, and how many episodes the machine failed, whose items may be missing."""
    store = Store(Path(directory))
    if "episodes" not in store.names():
        raise UsageError(
            f"{directory} holds no evaluation: write directories that `toolwise evaluate` made, compare=[runs/a,runs/b]"
        )
    items: dict[str, list[bool]] = {}
    failed = 0
    for trajectory in join_chains(store.trajectories("episodes")):
        if trajectory.failed:
            failed += 1
        else:
            items.setdefault(trajectory.task_id, []).append(trajectory.correct)
    return items, failed
