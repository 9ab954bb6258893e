"""`toolwise evaluate`: the records of one policy on one set of tasks; if asked, with tools taken away or their outputs hidden."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from envs.errors import UsageError
from envs.runtime.atomic import write_file
from envs.runtime.progress import Progress
from envs.tools.outputs import REAL
from evaluation.ablation import (
    FULL,
    Ablation,
    AblationReport,
    causal_use,
    keep_outputs,
    necessity,
    paired,
    report_json,
    with_outputs,
    without_tools,
)
from evaluation.protocols import examine
from evaluation.records import evaluation_record, write_records
from evaluation.report import markdown
from evaluation.types import EvaluationRecord
from rollout.collect import CollectConfig, Collector, tasks_of
from rollout.episode.environments import tool_names
from rollout.types import Group, GroupSpec, episodes_of


@dataclass
class EvaluateConfig(CollectConfig):
    """An evaluation: episodes of one policy on held-out tasks, and the records of them."""

    ablate: str = "none"
    """none; tools (or true): the same tasks without each tool and without any; outputs: with their outputs blanked or swapped."""

    data: str = ""
    """With tasks=bench:NAME, the user's copy of the benchmark's file; `evaluation/protocols` says what else that fixes."""

    bench: str = ""
    """The benchmark that tasks=bench:NAME named, once its settings are fixed. It is not for a user to write."""

    compare: list[str] = field(default_factory=list)
    """Two directories that `evaluate` wrote, to be compared item by item; nothing is rolled out then."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The records of `evaluation.json`, and the report of an ablation if there was one."""

    records: list[EvaluationRecord]
    ablation: AblationReport | None = None


def evaluate(config: EvaluateConfig, policy_dir: str, progress: Progress) -> Evaluation:
    """Roll out and write `evaluation.json`, `evaluation.md`, and `ablation.json` if there is one, below `config.out`.

    `progress` shows how each part of it goes on. Raises UsageError for an ablation that the tasks do not allow, and otherwise as
    `Collector`.
    """
    ablation = _ablation(config.ablate)
    examined = examine(config)
    tools = tool_names(*tasks_of(config))
    if ablation is not Ablation.none and not tools:
        raise UsageError(f"ablate={ablation}: {config.tasks} has no tools to take away")
    with Collector(config, policy_dir) as collector:
        groups = _collect(config, collector, ablation, tools, progress)
        notes = collector.notes()
    if examined is not None:
        notes = [*notes, *examined.warnings]
    records = []
    for name, part in groups.items():
        settings = _settings(config, name, collector.options, notes) | _rubric_score(part)
        settings |= {"protocol": dict(examined.record)} if examined is not None else {}
        tasks = examined.name if examined is not None else None
        records.append(summarise(config, part, name, tasks=tasks, tools=_tools_of(name, tools), settings=settings))
    report = _report(ablation, groups)
    write_records(Path(config.out, "evaluation.json"), records)
    write_file(Path(config.out, "evaluation.md"), markdown(records))
    if report is not None:
        write_file(Path(config.out, "ablation.json"), json.dumps(report_json(report), indent=2) + "\n")
    return Evaluation(records, report)


def summarise(
    config: CollectConfig,
    groups: Sequence[Group],
    variant: str = FULL,
    *,
    tasks: str | None = None,
    tools: Sequence[str] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> EvaluationRecord:
    """The record of the groups that were collected with `config`; its label names the variant unless that is the full one.

    `tasks` is what it calls them, by default the setting.
    """
    label = config.label or config.policy
    return evaluation_record(
        label if variant == FULL else f"{label}/{variant}",
        groups,
        policy=config.policy,
        tasks=config.tasks if tasks is None else tasks,
        seed=config.seed,
        temperature=config.temperature,
        tools=tools,
        settings=settings,
    )


def _collect(
    config: EvaluateConfig, collector: Collector, ablation: Ablation, tools: Sequence[str], progress: Progress
) -> dict[str, list[Group]]:
    """The groups of every variant, the full one first."""

    def run(name: str, specs: Sequence[GroupSpec]) -> list[Group]:
        file = "episodes" if name == FULL else name.replace(" ", "_")
        with progress(name, sum(len(group.episodes) for group in specs)) as advance:
            return collector.collect(file, specs, advance)

    groups = {FULL: run(FULL, collector.specs)}
    variants: dict[str, list[GroupSpec]] = {}
    if ablation is Ablation.tools:
        variants = without_tools(collector.specs, tools)
    elif ablation is Ablation.outputs:
        donors = Path(config.out, "tool_outputs").absolute()
        keep_outputs(groups[FULL], donors)
        variants = with_outputs(collector.specs, donors)
    return groups | {name: run(name, specs) for name, specs in variants.items() if name != FULL}


def _report(ablation: Ablation, groups: Mapping[str, Sequence[Group]]) -> AblationReport | None:
    if ablation is Ablation.none:
        return None
    pairs = paired(groups)
    variants = necessity(pairs) if ablation is Ablation.tools else causal_use(pairs)
    return AblationReport(variants, left_out=sum(1 for _ in episodes_of(groups[FULL])) - len(pairs[FULL]))


def _settings(config: EvaluateConfig, variant: str, options: Mapping[str, Any], notes: Sequence[str]) -> dict[str, Any]:
    return {
        **({"notes": list(notes)} if notes else {}),
        "tool_outputs": variant if variant in ("blank", "swapped") else REAL,
        "options": dict(options),
        "samples": config.group_size,
        "toolwise": version("toolwise"),
    }


def _rubric_score(groups: Sequence[Group]) -> dict[str, float]:
    """The mean share of rubrics that were met, if rubrics scored these episodes."""
    trajectories = [episode.trajectory for episode in episodes_of(groups) if not episode.failed]
    if not any("rubric_score" in trajectory.reward_parts for trajectory in trajectories):
        return {}
    return {
        "rubric_score": sum(trajectory.reward_parts.get("rubric_score", 0.0) for trajectory in trajectories) / len(trajectories)
    }


def _ablation(value: str) -> Ablation:
    try:
        return Ablation.tools if value.lower() == "true" else Ablation.none if value.lower() == "false" else Ablation(value)
    except ValueError:
        raise UsageError(f"ablate={value}: write one of {', '.join(Ablation)}") from None


def _tools_of(variant: str, tools: Sequence[str]) -> list[str]:
    if variant == "without tools":
        return []
    return [tool for tool in tools if variant != f"without {tool}"]
