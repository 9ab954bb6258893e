"""`evaluation.html`: the referee's figures as one page of plots."""

from __future__ import annotations

from evaluation.plots import Line, Point, Row, lines, page, points, rows, scatter
from evaluation.referee.figures import Judgement
from evaluation.referee.med import TERMS, Med
from evaluation.referee.report import Referee, referee_markdown


def referee_page(title: str, referee: Referee) -> str:
    """The page. It names each figure's meaning in a sentence; its tables are those of `evaluation.md`."""
    figures = [_accuracies(referee), *_adaptiveness(referee), *_effects(referee)]
    if referee.med is not None:
        figures += _med(referee.med)
    return page(title, figures, referee_markdown(referee))


def _accuracies(referee: Referee) -> str:
    content: list[Row] = []
    for number, (name, judgement) in enumerate(referee.judgements.items()):
        content.append(Row(f"{name}: all tools", judgement.accuracy.value, judgement.accuracy.ci95, number))
        if number == 0:
            content += [
                Row(f"{name}: {setting}", one.accuracy.value, one.accuracy.ci95, number)
                for setting, one in referee.settings.items()
            ]
        content.append(Row(f"{name}: without tools", judgement.accuracy_without.value, judgement.accuracy_without.ci95, number))
    caption = (
        "Accuracy on the same items. Format only: calls are made and show nothing. Swapped: they show another item's output. "
        "Result only: no tools, but the question shows what the calls had returned. Bars are 95 % intervals over items."
    )
    return rows("Accuracy by setting", content, caption, bounds=(0.0, 1.0))


def _adaptiveness(referee: Referee) -> list[str]:
    marks = [
        Point(f"{name} ({kind})", 1 - value.text.value, value.tool.value, number)
        for number, (name, judgement) in enumerate(referee.judgements.items())
        for kind, value in (("label", judgement.adaptiveness_labelled), ("measured", judgement.adaptiveness_measured))
        if value is not None
    ]
    caption = (
        "A policy that calls if and only if a tool is needed stands in the upper left corner; one that calls regardless of need "
        "stands on the diagonal, where mode adaptiveness is 50 %. Need is the task's label, or measured without tools."
    )
    across, up = "share of episodes with a call, no tool needed", "share with a call, tool needed"
    return [scatter("Mode adaptiveness", across, up, marks, caption)] if marks else []


def _effects(referee: Referee) -> list[str]:
    content = [row for number, (name, one) in enumerate(referee.judgements.items()) for row in _effect_rows(name, one, number)]
    caption = (
        "Gain: items that are unsolved without tools and solved by a call. Harm: items that are solved without tools and answered "
        "wrongly with a call. Net is gain minus harm, in percentage points."
    )
    return [rows("Tool effect", content, caption, form=points)] if content else []


def _effect_rows(name: str, judgement: Judgement, series: int) -> list[Row]:
    effect = judgement.tool_effect
    if effect is None:
        return []
    parts = (("gain", effect.gain), ("harm", effect.harm), ("net", effect.net))
    return [Row(f"{name}: {part}", figure.value, figure.ci95, series) for part, figure in parts]


def _med(med: Med) -> list[str]:
    names = [one.name for one in med.checkpoints]
    accuracies = lines(
        "MED: accuracy over checkpoints",
        names,
        [
            Line("with tools", [one.accuracy.value for one in med.checkpoints], [one.accuracy.ci95 for one in med.checkpoints]),
            Line(
                "without tools",
                [one.accuracy_without.value for one in med.checkpoints],
                [one.accuracy_without.ci95 for one in med.checkpoints],
                dashed=True,
            ),
        ],
        "The same items at each checkpoint; bands are 95 % intervals over items.",
    )
    parts = {"intrinsic": "intrinsic: without tools as well", "by_tools": "by tools", "less_harm": "harm that went away"}
    changed = [
        Line(text, [getattr(one, part).value for one in med.checkpoints], [getattr(one, part).ci95 for one in med.checkpoints])
        for part, text in parts.items()
    ]
    changes = lines(
        f"MED: change since {names[0]}",
        names,
        changed,
        "In percentage points. The three add up to the change of the accuracy with tools.",
        form=points,
    )
    gap = lines(
        "MED: terms of the gap",
        names,
        [Line(term.replace("_", " "), [one.terms[term].value for one in med.checkpoints], dashed="harm" in term) for term in TERMS],
        "Accuracy with tools minus without = call gain + schema gain − call harm − schema harm. Call: with a call. Schema: without "
        "one, so that only the presence of tools differs.",
        form=points,
    )
    return [accuracies, changes, gap]
