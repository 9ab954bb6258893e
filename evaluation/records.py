"""From groups of episodes to the records of `evaluation.json`, and their file."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from envs.errors import InfrastructureError
from envs.runtime.atomic import write_file
from envs.runtime.regular_file import read_text
from evaluation.intervals import pass_at_k, shares_interval, wilson_interval
from evaluation.types import CallsPerEpisode, EvaluationRecord, Interval, NeedResults, Problem, Results, SecondsPerEpisode
from rollout.types import Group, Trajectory

_MOST_NAMED = 20

Items = Sequence[Sequence[Trajectory]]
"""The sound episodes of each item, which is what a group's episodes share; none of them is empty."""


def evaluation_record(
    label: str,
    groups: Sequence[Group],
    *,
    policy: str,
    tasks: str,
    seed: int,
    temperature: float,
    tools: Sequence[str] | None = None,
    settings: Mapping[str, Any] | None = None,
    offered: Sequence[str] = (),
    clusters: Mapping[str, str] | None = None,
) -> EvaluationRecord:
    """The record of one policy's episodes. The interval of the accuracy is Wilson's with one episode an item, else
    `shares_interval` over items. `clusters` names by task what several items have in common: it is then over clusters, whose number
    is in the `settings`.

    `tools` are those that are left, as the record has them; needs that none of the `offered` ones meets are a note in its
    `settings`, and so are episodes that a deadline cut off. Episodes that still failed after their retries are left out and counted
    in `left_out`; `episodes` counts the rest.
    Raises InfrastructureError if none is left.
    """
    everything = [episode for group in groups for episode in group.episodes]
    problems = [episode for episode in everything if episode.failed or episode.unplayed]
    items = [[episode.trajectory for episode in group.sound] for group in groups if group.sound]
    if not items:
        reason = f"; the last one: {everything[-1].error}" if everything else ""
        raise InfrastructureError(
            f"{label}: there is no episode to evaluate: all {len(everything)} of them failed after their retries, and resume=true "
            f"tries them again{reason}"
        )
    abilities = sorted({name for item in items for episode in item for name in episode.abilities})
    settings = dict(settings or {})
    if notes := [note for note in (_unmet(items, offered), _cut(items)) if note]:
        settings["notes"] = [*settings.get("notes", []), *notes]
    clusters = clusters or {}
    if clusters:
        settings["clusters"] = len(_clustered(items, clusters))
    return EvaluationRecord(
        label=label,
        policy=policy,
        tasks=tasks,
        seed=seed,
        temperature=temperature,
        tools=None if tools is None else tuple(tools),
        settings=settings,
        **_results(items, clusters),
        **_effort([episode for item in items for episode in item]),
        left_out=sum(episode.failed for episode in everything),
        unplayed=sum(episode.unplayed for episode in everything),
        unjudged=sum(int(episode.chains[0].reward_parts.get("judge_no_verdict", 0.0)) for episode in everything),
        problems=tuple(Problem(_name(episode.chains[0]), episode.error or "") for episode in problems[:_MOST_NAMED]),
        by_ability={name: Results(**_results(_of_ability(items, name), clusters)) for name in abilities},
    )


def _unmet(items: Items, offered: Sequence[str]) -> str:
    """A line about the tools that tasks need and that nobody offers; "" if there are none, or no tool at all."""
    lacking = [needed for item in items if offered and (needed := {*(item[0].needed_tools or ())} - {*offered})]
    if not lacking:
        return ""
    names = ", ".join(sorted(set().union(*lacking)))
    return (
        f"{len(lacking)} of {len(items)} tasks need {names}, but the tools are {', '.join(offered)}: "
        "look at needed_tools of the tasks, and at +options.tools"
    )


def _cut(items: Items) -> str:
    """A line about the episodes that a deadline cut off; "" if there are none."""
    by_deadline = Counter(episode.cut for item in items for episode in item if episode.cut is not None)
    if not by_deadline:
        return ""
    deadlines = ", ".join(deadline for deadline, _ in by_deadline.most_common())
    return (
        f"{by_deadline.total()} of {sum(map(len, items))} episodes were cut off by {deadlines}, and have the reward that they had "
        "so far: raise it if they are slow, or look at what hangs"
    )


def _name(trajectory: Trajectory) -> str:
    """The task of an episode; if it ended before its task was known, its own name."""
    return trajectory.task_id or trajectory.episode_id


def _of_ability(items: Items, ability: str) -> Items:
    chosen = [[episode for episode in item if ability in episode.abilities] for item in items]
    return [item for item in chosen if item]


def _clustered(items: Items, clusters: Mapping[str, str]) -> Items:
    """The episodes of the items of each cluster; an item whose task is in none is one by itself."""
    together: dict[str, list[Trajectory]] = {}
    for item in items:
        together.setdefault(clusters.get(item[0].task_id, item[0].group_id), []).extend(item)
    return [*together.values()]


def _results(items: Items, clusters: Mapping[str, str]) -> dict[str, Any]:
    """The fields of `Results`."""
    episodes = [episode for item in items for episode in item]
    calls_N = np.array([episode.tool_calls for episode in episodes], dtype=np.float64)
    return {
        "episodes": len(episodes),
        "accuracy": _accuracy(episodes),
        "ci95": _interval(_clustered(items, clusters)),
        "pass_at_k": _pass_at_k(items),
        "calls_per_episode": CallsPerEpisode(float(calls_N.mean()), float(calls_N.var())),
        "by_need": _by_need(episodes),
    }


def _accuracy(episodes: Sequence[Trajectory]) -> float:
    return sum(episode.correct for episode in episodes) / len(episodes)


def _interval(items: Items) -> Interval:
    if all(len(item) == 1 for item in items):
        return wilson_interval(sum(item[0].correct for item in items), len(items))
    return shares_interval([_accuracy(item) for item in items], [len(item) for item in items])


def _pass_at_k(items: Items) -> dict[str, float]:
    """For k = 1, 2, 4, … up to the number of episodes that every item has."""
    samples = min(map(len, items))
    ks = [1 << power for power in range(samples.bit_length())]
    return {
        str(k): float(np.mean([pass_at_k(sum(episode.correct for episode in item), len(item), k) for item in items])) for k in ks
    }


def _by_need(episodes: Sequence[Trajectory]) -> dict[str, NeedResults]:
    results = {}
    for name, need in (("needed", True), ("not_needed", False)):
        part = [episode for episode in episodes if episode.needs_tool is need]
        if part:
            tool_use = sum(episode.tool_calls > 0 for episode in part) / len(part)
            results[name] = NeedResults(len(part), _accuracy(part), tool_use)
    return results


def _effort(episodes: Sequence[Trajectory]) -> dict[str, Any]:
    """What the episodes cost and how they ended: fields of `EvaluationRecord`."""
    turns = [turn for episode in episodes for turn in episode.turns]
    calls = [call for episode in episodes for call in episode.calls]
    by_tool = Counter(call.tool for call in calls)
    failed = Counter(call.tool for call in calls if call.status != "ok")
    ends = Counter(str(episode.stop_reason) for episode in episodes)
    count = len(episodes)
    return {
        "calls_by_tool": {tool: by_tool[tool] / count for tool in sorted(by_tool)},
        "errors_by_tool": {tool: failed[tool] / by_tool[tool] for tool in sorted(by_tool)},
        "tokens_per_episode": sum(sum(episode.loss_mask) for episode in episodes) / count,
        "seconds_per_episode": SecondsPerEpisode(
            generate=sum(turn.generate_s for turn in turns) / count, tool=sum(call.latency_s for call in calls) / count
        ),
        "ends": {reason: ends[reason] / count for reason in sorted(ends)},
    }


def read_records(path: Path) -> list[EvaluationRecord]:
    """The records of an `evaluation.json`; none if there is no such file. Raises ValueError for a file of anything else, OSError
    for what cannot be read or is no regular file."""
    return [EvaluationRecord.from_json(record) for record in json.loads(read_text(path))] if path.exists() else []


def write_records(path: Path, records: Sequence[EvaluationRecord]) -> None:
    """Write an `evaluation.json`, whole or not at all."""
    write_file(path, records_json(records))


def records_json(records: Sequence[EvaluationRecord]) -> str:
    """The content of an `evaluation.json`."""
    return json.dumps([record.to_json() for record in records], indent=2) + "\n"


def merge(known: Sequence[EvaluationRecord], records: Sequence[EvaluationRecord]) -> list[EvaluationRecord]:
    """`known` and `records` together: a record whose label is known takes that one's place, the others follow at the end."""
    by_label = {record.label: record for record in known}
    by_label |= {record.label: record for record in records}
    return list(by_label.values())
