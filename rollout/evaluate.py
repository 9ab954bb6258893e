"""From episodes to the records of `evaluation.json`, and a table of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.table import Table

from rollout.types import StopReason, Trajectory

_Z95 = 1.959963984540054


def wilson_interval(successes: int, trials: int) -> list[float]:
    """The 95 % score interval of a proportion (Wilson, JASA 22, 1927), which stays inside 0…1 and holds near the ends."""
    if trials == 0:
        return [0.0, 1.0]
    share, z2 = successes / trials, _Z95**2
    centre = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = _Z95 * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials**2)) / (1 + z2 / trials)
    return [max(0.0, centre - half), min(1.0, centre + half)]


def evaluation_record(
    label: str, trajectories: Sequence[Trajectory], *, policy: str, tasks: str, seed: int, temperature: float
) -> dict[str, Any]:
    """One record of `evaluation.json`: accuracy as a fraction with its Wilson 95 % interval, calls per episode with their
    population variance.

    Episodes that the machine failed are left out; `episodes` counts the rest. Raises ValueError where none is left.
    """
    episodes = [trajectory for trajectory in trajectories if trajectory.stop_reason is not StopReason.INFRASTRUCTURE]
    if not episodes:
        raise ValueError(f"{label}: there is no episode to evaluate")
    abilities = sorted({episode.ability for episode in episodes if episode.ability})
    needs = {"needed": True, "not_needed": False}
    by_need = {name: [episode for episode in episodes if episode.needs_tool is need] for name, need in needs.items()}
    return {
        "label": label,
        "policy": policy,
        "tasks": tasks,
        "seed": seed,
        "temperature": temperature,
        **_part(episodes),
        "by_ability": {name: _part([episode for episode in episodes if episode.ability == name]) for name in abilities},
        "by_need": {
            name: {
                "episodes": len(part),
                "accuracy": sum(episode.correct for episode in part) / len(part),
                "tool_use": sum(episode.tool_calls > 0 for episode in part) / len(part),
            }
            for name, part in by_need.items()
            if part
        },
    }


def _part(episodes: Sequence[Trajectory]) -> dict[str, Any]:
    correct = sum(episode.correct for episode in episodes)
    calls_N = np.array([episode.tool_calls for episode in episodes], dtype=np.float64)
    return {
        "episodes": len(episodes),
        "accuracy": correct / len(episodes),
        "ci95": wilson_interval(correct, len(episodes)),
        "calls_per_episode": {"mean": float(calls_N.mean()), "var": float(calls_N.var())},
    }


def merge(known: Sequence[dict[str, Any]], records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """`known` with `records` in: one of a known label takes that one's place, the others follow at the end."""
    by_label = {record["label"]: record for record in known}
    by_label |= {record["label"]: record for record in records}
    return list(by_label.values())


def table(records: Sequence[dict[str, Any]]) -> Table:
    """The records side by side: a row each, accuracies in percent."""
    abilities = sorted({ability for record in records for ability in record["by_ability"]})
    result = Table(title="held-out tasks", title_justify="left")
    result.add_column("policy")
    for title in ("accuracy", "calls", *abilities, "tool use: needed", "not needed"):
        result.add_column(title, justify="right")
    for record in records:
        low, high = record["ci95"]
        needs = [record["by_need"].get(name) for name in ("needed", "not_needed")]
        result.add_row(
            record["label"],
            f"{100 * record['accuracy']:.1f} % ({100 * low:.1f}–{100 * high:.1f})",
            f"{record['calls_per_episode']['mean']:.2f}",
            *(_percent(record["by_ability"].get(ability), "accuracy") for ability in abilities),
            *(_percent(need, "tool_use") for need in needs),
        )
    return result


def _percent(part: dict[str, Any] | None, name: str) -> str:
    return "–" if part is None else f"{100 * part[name]:.1f} %"
