"""`toolwise evaluate`: the records of one policy on one set of tasks; if asked, with tools taken away or their outputs hidden."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from envs.errors import UsageError
from envs.runtime.atomic import write_file
from envs.tools.outputs import REAL
from evaluation.ablation import FULL, Ablation, causal_use, keep_outputs, necessity, with_outputs, without_tools
from evaluation.records import evaluation_record, markdown
from rollout.collect import CollectConfig, Collector, tasks_of
from rollout.episode.environments import make
from rollout.types import Episode, Trajectory

Progress = Callable[[str, int], AbstractContextManager[Callable[[int, str], None]]]
"""Given a title and a total: shows how far it is while it is entered."""


@dataclass
class EvaluateConfig(CollectConfig):
    """An evaluation: episodes of one policy on held-out tasks, and what is said of them."""

    ablate: str = "none"
    """none; tools (or true): the same tasks without each tool and without any; outputs: with their outputs blanked or swapped."""

    compare: list[str] = field(default_factory=list)
    """Two directories that `evaluate` wrote, to be compared item by item; nothing is rolled out then."""


@dataclass(frozen=True, slots=True)
class Measured:
    """The records of `evaluation.json`, and the report of an ablation where one was asked for."""

    records: list[dict[str, Any]]
    ablation: dict[str, Any] | None = None


def measure(config: EvaluateConfig, policy_dir: str, progress: Progress) -> Measured:
    """Roll out and write `evaluation.json`, `evaluation.md`, and `ablation.json` where there is one, below `config.out`.

    `progress` shows how each part of it goes on. Raises UsageError for an ablation that the
    tasks do not allow, and what `Collector` raises.
    """
    ablation = _ablation(config.ablate)
    tools = _tools(config)
    if ablation is not Ablation.none and not tools:
        raise UsageError(f"ablate={ablation}: {config.tasks} has no tools to take away")
    out = Path(config.out)
    with Collector(config, policy_dir) as collector:

        def run(name: str, specs: Sequence[Any]) -> list[Episode]:
            file = "episodes" if name == FULL else name.replace(" ", "_")
            with progress(name, len(specs)) as advance:
                return collector.collect(file, specs, lambda done, _: advance(done, ""))

        episodes = {FULL: run(FULL, collector.specs)}
        if ablation is Ablation.tools:
            variants = without_tools(collector.specs, tools)
            episodes |= {name: run(name, specs) for name, specs in variants.items() if name != FULL}
        elif ablation is Ablation.outputs:
            donors = (out / "tool_outputs").absolute()
            keep_outputs(episodes[FULL], donors)
            episodes |= {name: run(name, specs) for name, specs in with_outputs(collector.specs, donors).items()}
    label = config.label or config.policy
    records = [
        evaluation_record(
            label if name == FULL else f"{label}/{name}",
            [episode.trajectory for episode in part],
            policy=config.policy,
            tasks=config.tasks,
            seed=config.seed,
            temperature=config.temperature,
            tools=_tools_of(name, tools),
            settings={
                "tool_outputs": name if name in ("blank", "swapped") else REAL,
                "options": collector.options,
                "samples": config.group_size,
                "toolwise": version("toolwise"),
            },
        )
        for name, part in episodes.items()
    ]
    report = _report(ablation, episodes)
    write_file(out / "evaluation.json", json.dumps(records, indent=2) + "\n")
    write_file(out / "evaluation.md", markdown(records))
    if report is not None:
        write_file(out / "ablation.json", json.dumps(report, indent=2) + "\n")
    return Measured(records, report)


def _report(ablation: Ablation, episodes: dict[str, list[Episode]]) -> dict[str, Any] | None:
    """Over the items that the machine failed in no variant."""
    if ablation is Ablation.none:
        return None
    rows = zip(*([episode.trajectory for episode in part] for part in episodes.values()), strict=True)
    whole = [row for row in rows if not any(trajectory.failed for trajectory in row)]
    parts: dict[str, list[Trajectory]] = {name: [row[place] for row in whole] for place, name in enumerate(episodes)}
    if ablation is Ablation.tools:
        return necessity(parts)
    return causal_use(parts.pop(FULL), parts)


def _ablation(value: str) -> Ablation:
    try:
        return Ablation.tools if value.lower() == "true" else Ablation.none if value.lower() == "false" else Ablation(value)
    except ValueError:
        raise UsageError(f"ablate={value}: write one of {', '.join(Ablation)}") from None


def _tools(config: CollectConfig) -> tuple[str, ...]:
    """The tools that the tasks offer."""
    env = make(*tasks_of(config))
    try:
        return tuple(getattr(env.unwrapped, "tools", ()))
    finally:
        env.close()


def _tools_of(name: str, tools: Sequence[str]) -> list[str]:
    if name == "without tools":
        return []
    return [tool for tool in tools if name != f"without {tool}"]
