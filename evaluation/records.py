"""From episodes to the records of `evaluation.json`, and a table of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.table import Table

from envs.errors import InfrastructureError
from evaluation.intervals import bootstrap_interval, pass_at_k, wilson_interval
from rollout.types import Trajectory, join_chains

_REALX = ("perception", "reasoning", "search", "integration")  # in RealX-Bench's order


def evaluation_record(
    label: str,
    trajectories: Sequence[Trajectory],
    *,
    policy: str,
    tasks: str,
    seed: int,
    temperature: float,
    tools: Sequence[str] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """One record of `evaluation.json`: accuracy as a fraction with its 95 % interval (Wilson's with one sample an item, else the
    bootstrap's over items), calls per episode with their population variance, and what they cost. `tools` are those that were on;
    `settings` is what else a repetition needs.

    Episodes that the machine failed are left out; `episodes` counts the rest. Raises InfrastructureError where none is left.
    """
    episodes = [trajectory for trajectory in join_chains(trajectories) if not trajectory.failed]
    if not episodes:
        raise InfrastructureError(f"{label}: there is no episode to evaluate: the machine failed all {len(trajectories)} of them")
    # A task of several abilities counts for each.
    abilities = sorted({name for episode in episodes for name in episode.abilities})
    return {
        "label": label,
        "policy": policy,
        "tasks": tasks,
        "seed": seed,
        "temperature": temperature,
        **({} if tools is None else {"tools": list(tools)}),
        **(settings or {}),
        **_part(episodes),
        **_effort(episodes),
        "by_ability": {name: _part([episode for episode in episodes if name in episode.abilities]) for name in abilities},
    }


def _part(episodes: Sequence[Trajectory]) -> dict[str, Any]:
    correct = sum(episode.correct for episode in episodes)
    items = _by_item(episodes)
    calls_N = np.array([episode.tool_calls for episode in episodes], dtype=np.float64)
    return {
        "episodes": len(episodes),
        "accuracy": correct / len(episodes),
        "ci95": _interval(items, correct, len(episodes)),
        "pass_at_k": _pass_at_k(items),
        "calls_per_episode": {"mean": float(calls_N.mean()), "var": float(calls_N.var())},
        "by_need": _by_need(episodes),
    }


def _by_item(episodes: Sequence[Trajectory]) -> list[list[bool]]:
    items: dict[str, list[bool]] = {}
    for episode in episodes:
        items.setdefault(episode.group_id, []).append(episode.correct)
    return list(items.values())


def _interval(items: Sequence[Sequence[bool]], correct: int, episodes: int) -> list[float]:
    if len(items) == episodes:
        return wilson_interval(correct, episodes)
    return bootstrap_interval([float(np.mean(item)) for item in items])


def _pass_at_k(items: Sequence[Sequence[bool]]) -> dict[str, float]:
    """For k = 1, 2, 4, … up to the samples that every item has."""
    samples = min(map(len, items))
    ks = [1 << power for power in range(samples.bit_length())]
    return {str(k): float(np.mean([pass_at_k(sum(item), len(item), k) for item in items])) for k in ks}


def _effort(episodes: Sequence[Trajectory]) -> dict[str, Any]:
    """Means an episode: calls by tool, sampled tokens, seconds; shares: failed calls by tool, ends by cause."""
    turns = [turn for episode in episodes for turn in episode.turns]
    made = [call for episode in episodes for call in episode.calls]
    calls = Counter(call.tool for call in made)
    failed = Counter(call.tool for call in made if call.status != "ok")
    ends = Counter(str(episode.stop_reason) for episode in episodes)
    count = len(episodes)
    return {
        "calls_by_tool": {tool: calls[tool] / count for tool in sorted(calls)},
        "errors_by_tool": {tool: failed[tool] / calls[tool] for tool in sorted(calls)},
        "tokens_per_episode": sum(sum(episode.loss_mask) for episode in episodes) / count,
        "seconds_per_episode": {
            "generate": sum(turn.generate_s for turn in turns) / count,
            "tool": sum(call.latency_s for call in made) / count,
        },
        "ends": {reason: ends[reason] / count for reason in sorted(ends)},
    }


def markdown(records: Sequence[dict[str, Any]]) -> str:
    """RealX-Bench's form: a row a record, the accuracy in percent on all tasks and by ability, and calls per episode."""
    found = {ability for record in records for ability in record["by_ability"]}
    abilities = [*(name for name in _REALX if name in found), *sorted(found - set(_REALX))]
    header = ["", "all", *abilities, "calls per episode", "episodes"]
    rows = []
    for record in records:
        parts = [record, *(record["by_ability"].get(ability) for ability in abilities)]
        calls = record["calls_per_episode"]["mean"]
        rows.append([record["label"], *map(_accuracy, parts), f"{calls:.2f}", str(record["episodes"])])
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


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
