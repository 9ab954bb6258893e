"""The plots of the referee's figures, from the records that carry them in `evaluation.json`, and from `med.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evaluation.pages.document import Plot
from evaluation.pages.plots import Line, Point, Row, lines, points, rows, scatter
from evaluation.referee.med import TERMS
from evaluation.types import EvaluationRecord, Interval

Figures = Mapping[str, Any]
"""A part of what `evaluation.referee.report.referee_json` or `med_json` returns, as it is or as JSON has it."""


def referee_plots(records: Sequence[EvaluationRecord], med: Figures | None) -> list[Plot]:
    """Accuracy by setting, mode adaptiveness, tool effect and MED, as far as the records have them; none without a referee."""
    judgements = {record.label: record.settings["referee"] for record in records if "referee" in record.settings}
    if not judgements:
        return []
    return [_accuracies(judgements), *_adaptiveness(judgements), *_effects(judgements), *(_med(med) if med else [])]


def _accuracies(judgements: Mapping[str, Figures]) -> Plot:
    content: list[Row] = []
    for number, (name, judgement) in enumerate(judgements.items()):
        content.append(_row(f"{name}: all tools", judgement["accuracy"], number))
        settings = judgement.get("settings", {})
        content += [_row(f"{name}: {setting}", one["accuracy"], number) for setting, one in settings.items()]
        content.append(_row(f"{name}: without tools", judgement["accuracy_without"], number))
    caption = (
        "Accuracy on the same items. Format only: calls are made and show nothing. Swapped: they show another item's output. "
        "Result only: no tools, but the question shows what the calls had returned. Bars are 95 % intervals over items."
    )
    return rows("Accuracy by setting", content, caption, bounds=(0.0, 1.0))


def _adaptiveness(judgements: Mapping[str, Figures]) -> list[Plot]:
    marks = [
        Point(f"{name} ({kind})", 1 - value["text"]["value"], value["tool"]["value"], number)
        for number, (name, judgement) in enumerate(judgements.items())
        for kind, value in (("label", judgement["adaptiveness_labelled"]), ("measured", judgement["adaptiveness_measured"]))
        if value is not None
    ]
    caption = (
        "A policy that calls if and only if a tool is needed stands in the upper left corner; one that calls regardless of need "
        "stands on the diagonal, where mode adaptiveness is 50 %. Need is the task's label, or measured without tools."
    )
    across, up = "share of episodes with a call, no tool needed", "share with a call, tool needed"
    return [scatter("Mode adaptiveness", across, up, marks, caption)] if marks else []


def _effects(judgements: Mapping[str, Figures]) -> list[Plot]:
    content = [
        _row(f"{name}: {part}", effect[part], number)
        for number, (name, judgement) in enumerate(judgements.items())
        if (effect := judgement["tool_effect"]) is not None
        for part in ("gain", "harm", "net")
    ]
    caption = (
        "Gain: items that are unsolved without tools and solved by a call. Harm: items that are solved without tools and answered "
        "wrongly with a call. Net is gain minus harm, in percentage points."
    )
    return [rows("Tool effect", content, caption, form=points)] if content else []


def _med(med: Figures) -> list[Plot]:
    checkpoints: Sequence[Figures] = med["checkpoints"]
    names = [one["name"] for one in checkpoints]
    accuracies = lines(
        "MED: accuracy over checkpoints",
        names,
        [_line("with tools", checkpoints, "accuracy"), _line("without tools", checkpoints, "accuracy_without", dashed=True)],
        "The same items at each checkpoint; bands are 95 % intervals over items.",
    )
    parts = {"intrinsic": "intrinsic: without tools as well", "by_tools": "by tools", "less_harm": "harm that went away"}
    changes = lines(
        f"MED: change since {names[0]}",
        names,
        [_line(text, checkpoints, part) for part, text in parts.items()],
        "In percentage points. The three add up to the change of the accuracy with tools.",
        form=points,
    )
    gap = lines(
        "MED: terms of the gap",
        names,
        [
            Line(term.replace("_", " "), [one["terms"][term]["value"] for one in checkpoints], dashed="harm" in term)
            for term in TERMS
        ],
        "Accuracy with tools minus without = call gain + schema gain − call harm − schema harm. Call: with a call. Schema: without "
        "one, so that only the presence of tools differs.",
        form=points,
    )
    return [accuracies, changes, gap]


def _row(name: str, figure: Figures, series: int) -> Row:
    return Row(name, figure["value"], _interval(figure), series)


def _line(name: str, checkpoints: Sequence[Figures], part: str, dashed: bool = False) -> Line:
    figures = [one[part] for one in checkpoints]
    return Line(name, [figure["value"] for figure in figures], [_interval(figure) for figure in figures], dashed)


def _interval(figure: Figures) -> Interval:
    low, high = figure["ci95"]
    return low, high
