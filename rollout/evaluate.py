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
    return {
        "label": label,
        "policy": policy,
        "tasks": tasks,
        "seed": seed,
        "temperature": temperature,
        **_part(episodes),
        "by_ability": {name: _part([episode for episode in episodes if episode.ability == name]) for name in abilities},
    }


def _part(episodes: Sequence[Trajectory]) -> dict[str, Any]:
    correct = sum(episode.correct for episode in episodes)
    calls_N = np.array([episode.tool_calls for episode in episodes], dtype=np.float64)
    return {
        "episodes": len(episodes),
        "accuracy": correct / len(episodes),
        "ci95": wilson_interval(correct, len(episodes)),
        "calls_per_episode": {"mean": float(calls_N.mean()), "var": float(calls_N.var())},
        "by_need": _by_need(episodes),
    }


def _by_need(episodes: Sequence[Trajectory]) -> dict[str, Any]:
    """Where it is known whether a task needs a tool: accuracy, and the share of episodes with at least one call."""
    result = {}
    for name, need in (("needed", True), ("not_needed", False)):
        part = [episode for episode in episodes if episode.needs_tool is need]
        if part:
            result[name] = {
                "episodes": len(part),
                "accuracy": sum(episode.correct for episode in part) / len(part),
                "tool_use": sum(episode.tool_calls > 0 for episode in part) / len(part),
            }
    return result


def merge(known: Sequence[dict[str, Any]], records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """`known` with `records` in: one of a known label takes that one's place, the others follow at the end."""
    by_label = {record["label"]: record for record in known}
    by_label |= {record["label"]: record for record in records}
    return list(by_label.values())


def table(records: Sequence[dict[str, Any]]) -> Table:
    """The records side by side, a column each: all tasks together, then each ability."""
    result = Table(title="Held-out tasks", title_justify="left")
    result.add_column("")
    for record in records:
        result.add_column(f"{record['label']}\n({record['episodes']} episodes)", justify="right")
    abilities = sorted({ability for record in records for ability in record["by_ability"]})
    for ability in (None, *abilities):
        parts = [record if ability is None else record["by_ability"].get(ability) for record in records]
        result.add_section()
        result.add_row(f"[bold]{ability or 'all'}[/bold]: accuracy (95 %)", *map(_accuracy, parts))
        result.add_row("  calls per episode: mean (variance)", *map(_calls, parts))
        for need, name in (("needed", "  used a tool where one is needed"), ("not_needed", "  used a tool where none is needed")):
            result.add_row(name, *(_tool_use(part, need) for part in parts))
    return result


def _accuracy(part: dict[str, Any] | None) -> str:
    if part is None:
        return "–"
    low, high = part["ci95"]
    return f"{100 * part['accuracy']:.1f} % ({100 * low:.1f}–{100 * high:.1f})"


def _calls(part: dict[str, Any] | None) -> str:
    return "–" if part is None else "{mean:.2f} ({var:.2f})".format(**part["calls_per_episode"])


def _tool_use(part: dict[str, Any] | None, need: str) -> str:
    known = (part or {}).get("by_need", {}).get(need)
    return "–" if known is None else f"{100 * known['tool_use']:.1f} %"
