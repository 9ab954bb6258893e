"""Which tools were needed, and whether their outputs were used: the same tasks and seeds, with tools taken away or outputs hidden.

*Necessity*: an item is solved only with a tool where it is solved with all tools and not without that one; broken by it where it is
the other way round. *Causal use*: the tools are called as ever, but what they return is blanked or swapped for another item's; the
share of items whose answer then changes says how much of the use is real.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from rich.table import Table

from envs.tools.outputs import BLANK, Donor, write_donors
from evaluation.intervals import wilson_interval
from rollout.types import Episode, EpisodeSpec, Trajectory

FULL = "all tools"


class Ablation(StrEnum):
    """What is taken away: nothing, each tool in turn and all of them, or what tools return."""

    none = "none"
    tools = "tools"
    outputs = "outputs"


def without_tools(specs: Sequence[EpisodeSpec], tools: Sequence[str]) -> dict[str, list[EpisodeSpec]]:
    """The same episodes with all `tools`, without each, and without any."""
    variants = {FULL: list(tools), **{f"without {tool}": [other for other in tools if other != tool] for tool in tools}}
    if len(tools) > 1:
        variants["without tools"] = []
    return {name: list(_variant(specs, name, tools=left)) for name, left in variants.items()}


def with_outputs(specs: Sequence[EpisodeSpec], donors: Path) -> dict[str, list[EpisodeSpec]]:
    """The same episodes with blank outputs, and with those in the directory `donors`."""
    return {
        name: list(_variant(specs, name, tool_outputs=outputs)) for name, outputs in (("blank", BLANK), ("swapped", str(donors)))
    }


def keep_outputs(episodes: Iterable[Episode], directory: Path) -> None:
    """Writes what the tools returned, for `with_outputs`."""
    write_donors(directory, _outputs(episodes))


def necessity(by_variant: Mapping[str, Sequence[Trajectory]]) -> dict[str, Any]:
    """For each tool taken away, the shares of items solved only with it, anyway, never, and broken by it; by need of that tool."""
    full = by_variant[FULL]
    report = {}
    for name, ablated in by_variant.items():
        if name == FULL:
            continue
        tool = name.removeprefix("without ")
        pairs = list(zip(full, ablated, strict=True))
        needing = [pair for pair in pairs if _needs(pair[0], tool)]
        others = [pair for pair in pairs if pair[0].needed_tools is not None and not _needs(pair[0], tool)]
        parts = {"all": pairs, "needed": needing, "not_needed": others}
        report[name] = {part: _solved(chosen) for part, chosen in parts.items() if chosen}
    return report


def causal_use(real: Sequence[Trajectory], by_variant: Mapping[str, Sequence[Trajectory]]) -> dict[str, Any]:
    """Of the episodes that called a tool: the share whose answer changes with the outputs, and the accuracy then; by need."""
    report = {}
    for name, changed in by_variant.items():
        pairs = [pair for pair in zip(real, changed, strict=True) if pair[0].tool_calls]
        parts = {
            "all": pairs,
            "needed": [pair for pair in pairs if pair[0].needs_tool],
            "not_needed": [pair for pair in pairs if pair[0].needs_tool is False],
        }
        report[name] = {part: _changed(chosen) for part, chosen in parts.items() if chosen}
    return report


def ablation_table(report: Mapping[str, Any]) -> Table:
    """The report in rows: what was taken away, from which items, and what became of them."""
    shown = Table("taken away", "items", title="Ablation", title_justify="left")
    columns = list(next(iter(next(iter(report.values())).values())))
    for column in columns:
        shown.add_column(column.replace("_", " "), justify="right")
    for name, parts in report.items():
        for part, values in parts.items():
            shown.add_row(name, part.replace("_", " "), *(_shown(values[column]) for column in columns))
    return shown


def _variant(specs: Iterable[EpisodeSpec], name: str, **options: Any) -> Iterator[EpisodeSpec]:
    for spec in specs:
        yield replace(
            spec,
            episode_id=f"{spec.episode_id} {name}",
            group_id=f"{spec.group_id} {name}",
            env_kwargs=spec.env_kwargs | options,
        )


def _outputs(episodes: Iterable[Episode]) -> Iterator[Donor]:
    for episode in episodes:
        for turn in episode.trajectory.turns:
            if len(turn.tool_calls) == 1 and turn.succeeded:
                tool = turn.tool_calls[0].tool
                text = turn.observation.removeprefix("<tool_response>\n").removesuffix("\n</tool_response>")
                yield Donor(episode.trajectory.task_id, tool, text, tuple(episode.images[name] for name in turn.images))


def _needs(trajectory: Trajectory, tool: str) -> bool:
    needed = trajectory.needed_tools or []
    return bool(needed) if tool == "tools" else tool in needed


def _solved(pairs: Sequence[tuple[Trajectory, Trajectory]]) -> dict[str, Any]:
    counts = {
        "only_with": sum(full.correct and not ablated.correct for full, ablated in pairs),
        "anyway": sum(full.correct and ablated.correct for full, ablated in pairs),
        "broken_by": sum(ablated.correct and not full.correct for full, ablated in pairs),
        "never": sum(not full.correct and not ablated.correct for full, ablated in pairs),
    }
    accuracy = sum(ablated.correct for _, ablated in pairs)
    return {"episodes": len(pairs)} | {
        name: _share(count, len(pairs)) for name, count in (*counts.items(), ("accuracy_without", accuracy))
    }


def _changed(pairs: Sequence[tuple[Trajectory, Trajectory]]) -> dict[str, Any]:
    changed = sum(real.answer != other.answer for real, other in pairs)
    return {
        "episodes": len(pairs),
        "answer_changes": _share(changed, len(pairs)),
        "accuracy_real": _share(sum(real.correct for real, _ in pairs), len(pairs)),
        "accuracy_then": _share(sum(other.correct for _, other in pairs), len(pairs)),
    }


def _share(count: int, total: int) -> dict[str, Any]:
    return {"share": count / total, "ci95": wilson_interval(count, total)}


def _shown(value: Any) -> str:
    if isinstance(value, int):
        return str(value)
    low, high = value["ci95"]
    return f"{100 * value['share']:.1f} % ({100 * low:.1f}–{100 * high:.1f})"
