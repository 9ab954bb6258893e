"""Which tools were needed, and whether their outputs were used: the same tasks and seeds, with tools taken away or outputs hidden.

*Necessity*: an item is solved only with a tool if it is solved with all tools and not without that one; it is broken by the tool in
the opposite case. *Causal use*: the tools are called as ever, but what they return is blanked or swapped for another item's; the
share of items whose answer then changes says how much of the use is real.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from rich.table import Table

from envs.tools.outputs import BLANK, Donor, write_donors
from evaluation.intervals import paired_difference
from evaluation.items import item_means, item_sizes, share_interval
from evaluation.types import Difference, Interval
from rollout.specs import variant
from rollout.types import Group, GroupSpec, Trajectory, episodes_of

FULL = "all tools"


class Ablation(StrEnum):
    """What is taken away: nothing, each tool in turn and all of them, or what tools return."""

    none = "none"
    tools = "tools"
    outputs = "outputs"


@dataclass(frozen=True, slots=True)
class Share:
    """A share of episodes with its 95 % interval."""

    share: float
    ci95: Interval


@dataclass(frozen=True, slots=True)
class Necessity:
    """Shares of items solved only with the tool, with and without it, only without it, and never; the accuracy without it, and the
    paired difference that the tool makes to the accuracy."""

    episodes: int
    only_with: Share
    anyway: Share
    broken_by: Share
    never: Share
    accuracy_without: Share
    difference: Difference


@dataclass(frozen=True, slots=True)
class CausalUse:
    """Of episodes that called a tool: the share whose answer changes with the outputs, the accuracy before and after, and the
    paired difference that the real outputs make to it."""

    episodes: int
    answer_changes: Share
    accuracy_real: Share
    accuracy_then: Share
    difference: Difference


@dataclass(frozen=True, slots=True)
class AblationReport:
    """What became of the episodes that have an outcome in every variant; `left_out` is the number of the others.

    `variants` are by what was taken away ("without code", "blank" …), then by part of the items: "all", "needed", "not_needed".
    """

    variants: Mapping[str, Mapping[str, Necessity]] | Mapping[str, Mapping[str, CausalUse]]
    left_out: int


Pairs = Sequence[tuple[Trajectory, Trajectory]]
"""Episodes of the same items: with everything, and with something taken away."""


def without_tools(groups: Sequence[GroupSpec], tools: Sequence[str]) -> dict[str, list[GroupSpec]]:
    """The same groups with all `tools`, without each, and without any."""
    variants: dict[str, list[str]] = {FULL: [], **{f"without {tool}": [tool] for tool in tools}}
    if len(tools) > 1:
        variants["without tools"] = list(tools)
    return {name: variant(groups, name, without=taken) for name, taken in variants.items()}


def with_outputs(groups: Sequence[GroupSpec], donors: Path) -> dict[str, list[GroupSpec]]:
    """The same groups with blank outputs, and with those in the directory `donors`."""
    return {name: variant(groups, name, tool_outputs=outputs) for name, outputs in (("blank", BLANK), ("swapped", str(donors)))}


def keep_outputs(groups: Sequence[Group], directory: Path) -> None:
    """Write what the tools returned, for `with_outputs`."""
    write_donors(directory, _outputs(groups))


def paired(by_variant: Mapping[str, Sequence[Group]], clusters: Mapping[str, str] | None = None) -> dict[str, list[Trajectory]]:
    """The episodes of each variant, in the same order, of the items that have an outcome in every variant.

    `clusters` names by task what several items have in common: with everything, they are then episodes of one item.
    """
    rows = zip(*(episodes_of(groups) for groups in by_variant.values()), strict=True)
    sound = [[episode.trajectory for episode in row] for row in rows if not any(episode.failed for episode in row)]
    pairs = {name: [row[place] for row in sound] for place, name in enumerate(by_variant)}
    if clusters:
        pairs[FULL] = [replace(one, group_id=clusters.get(one.task_id, one.group_id)) for one in pairs[FULL]]
    return pairs


def necessity(by_variant: Mapping[str, Sequence[Trajectory]]) -> dict[str, dict[str, Necessity]]:
    """For each tool taken away, what became of the items; by need of that tool. `by_variant` is as `paired` returns it."""
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
        report[name] = {part: _necessity(chosen) for part, chosen in parts.items() if chosen}
    return report


def causal_use(by_variant: Mapping[str, Sequence[Trajectory]]) -> dict[str, dict[str, CausalUse]]:
    """For each way to hide outputs, what became of the episodes that called a tool; by need. `by_variant` is as for `necessity`."""
    full = by_variant[FULL]
    report = {}
    for name, changed in by_variant.items():
        if name == FULL:
            continue
        pairs = [pair for pair in zip(full, changed, strict=True) if pair[0].tool_calls]
        parts = {
            "all": pairs,
            "needed": [pair for pair in pairs if pair[0].needs_tool],
            "not_needed": [pair for pair in pairs if pair[0].needs_tool is False],
        }
        report[name] = {part: _causal_use(chosen) for part, chosen in parts.items() if chosen}
    return report


def report_json(report: AblationReport) -> dict[str, Any]:
    """The content of `ablation.json`: the variants, and `left_out`."""
    variants = {name: {part: asdict(result) for part, result in parts.items()} for name, parts in report.variants.items()}
    return {"left_out": report.left_out, **variants}


def ablation_table(report: AblationReport) -> Table:
    """The report in rows: what was taken away, from which items, and what became of them."""
    left_out = f" ({report.left_out} episodes left out: one of their variants failed)" if report.left_out else ""
    result = Table("taken away", "items", title=f"Ablation{left_out}", title_justify="left")
    rows = [(name, part, values) for name, parts in report.variants.items() for part, values in parts.items()]
    columns = [column.name for column in fields(rows[0][2])] if rows else []
    for column in columns:
        result.add_column(column.replace("_", " "), justify="right")
    for name, part, values in rows:
        result.add_row(name, part.replace("_", " "), *(_text(getattr(values, column)) for column in columns))
    return result


def _outputs(groups: Sequence[Group]) -> Iterator[Donor]:
    for episode in episodes_of(groups):
        trajectory = episode.trajectory
        for turn in trajectory.turns:
            if len(turn.tool_calls) == 1 and turn.succeeded:
                text = turn.observation.removeprefix("<tool_response>\n").partition("\n</tool_response>")[0]
                images = tuple(episode.images[name] for name in turn.images)
                yield Donor(trajectory.task_id, turn.tool_calls[0].tool, text, images)


def _needs(trajectory: Trajectory, tool: str) -> bool:
    needed = trajectory.needed_tools or []
    return bool(needed) if tool == "tools" else tool in needed


def _necessity(pairs: Pairs) -> Necessity:
    outcomes = [(full.correct, ablated.correct) for full, ablated in pairs]
    return Necessity(
        len(pairs),
        only_with=_share(pairs, [with_it and not without for with_it, without in outcomes]),
        anyway=_share(pairs, [with_it and without for with_it, without in outcomes]),
        broken_by=_share(pairs, [without and not with_it for with_it, without in outcomes]),
        never=_share(pairs, [not with_it and not without for with_it, without in outcomes]),
        accuracy_without=_share(pairs, [without for _, without in outcomes]),
        difference=_difference(pairs),
    )


def _causal_use(pairs: Pairs) -> CausalUse:
    return CausalUse(
        len(pairs),
        answer_changes=_share(pairs, [real.answer != other.answer for real, other in pairs]),
        accuracy_real=_share(pairs, [real.correct for real, _ in pairs]),
        accuracy_then=_share(pairs, [other.correct for _, other in pairs]),
        difference=_difference(pairs),
    )


def _share(pairs: Pairs, outcomes: Sequence[bool]) -> Share:
    return Share(sum(outcomes) / len(outcomes), share_interval([full for full, _ in pairs], outcomes))


def _difference(pairs: Pairs) -> Difference:
    """The accuracy with everything minus that with something taken away: both are shares of episodes, so an item weighs as many."""
    full = [one for one, _ in pairs]
    then, now = ([episode.correct for episode in column] for column in reversed([*zip(*pairs, strict=True)]))
    return paired_difference(item_means(full, then), item_means(full, now), item_sizes(full))


def _text(value: int | Share | Difference) -> str:
    if isinstance(value, int):
        return str(value)
    low, high = value.ci95
    if isinstance(value, Difference):
        return f"{100 * value.value:+.1f} ({100 * low:+.1f} to {100 * high:+.1f}), p {value.p:.2g}"
    return f"{100 * value.share:.1f} % ({100 * low:.1f}–{100 * high:.1f})"
