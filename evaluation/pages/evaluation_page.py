"""`evaluation.html`: what an evaluation measured, the referee's plots if it was asked, and some of its episodes. The parts that the
page of a run has as well are here."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from envs.runtime.atomic import write_file
from envs.runtime.regular_file import open_file, read_text
from evaluation.pages.document import Plot, figures, listed, page, section, shown, table
from evaluation.pages.examples import Question, example, find_examples
from evaluation.pages.plots import Row, rows
from evaluation.pages.referee import referee_plots
from evaluation.records import read_records
from evaluation.report import warnings
from evaluation.types import EvaluationRecord, Results

PAGE = "evaluation.html"
_NEEDS = (("needed", "a tool is needed"), ("not_needed", "none is needed"))


def write_evaluation_page(
    directory: Path, defaults: Mapping[str, Any], question: Question | None = None, out: Path | None = None
) -> Path:
    """Write `evaluation.html` of what `toolwise evaluate` wrote into `directory`, to there or into `out`. Returns its path.

    `defaults` are those of its settings, as plain values; `question` reads the text of an episode's prompt.
    """
    records, problems = known_records(directory)
    texts = _text(directory / "evaluation.md", problems)
    sections = [
        section("Results", [results(records)]),
        section("Plots", [figures([*accuracy_plots(records), *referee_plots(records, _med(directory))])]),
        examples(directory, question, problems),
        settings(directory, defaults, problems),
        section("Left out and not readable", [listed([*warnings(records), *named_problems(records), *problems])]),
        section("Tables as text", [texts] if texts else []),
    ]
    title = records[0].label if records else directory.name
    tasks = ", ".join(dict.fromkeys(record.tasks for record in records))
    path = (out or directory) / PAGE
    write_file(path, page(f"Evaluation of {title}", sections, f"{tasks}; {directory}"))
    return path


def known_records(directory: Path) -> tuple[list[EvaluationRecord], list[str]]:
    """The records of a directory, none if there are none yet, and what is wrong with their file."""
    try:
        return read_records(directory / "evaluation.json"), []
    except (ValueError, TypeError, OSError, RecursionError, AttributeError, LookupError) as error:
        return [], [f"evaluation.json cannot be read: {' '.join(str(error).split())[:200]}"]


def results(records: Sequence[EvaluationRecord]) -> str:
    """The table of the records, side by side: all tasks, each ability, and by need."""
    if not records:
        return "<p>Nothing is measured yet.</p>"
    lines = [["result", *(f"{record.label} ({record.episodes} episodes)" for record in records)]]
    abilities = sorted({name for record in records for name in record.by_ability})
    for ability in (None, *abilities):
        parts = [record if ability is None else record.by_ability.get(ability) for record in records]
        name = ability or "all"
        lines.append([f"{name}: accuracy (95 %)", *map(_accuracy, parts)])
        lines.append([f"{name}: calls per episode, mean (variance)", *map(_calls, parts)])
        for need, words in _NEEDS:
            if any(part is not None and need in part.by_need for part in parts):
                lines.append([f"{name}: used a tool, {words}", *(_by_need(part, need, "tool_use") for part in parts)])
                lines.append([f"{name}: accuracy, {words}", *(_by_need(part, need, "accuracy") for part in parts)])
    counts = (("left out: infrastructure failed", "left_out"), ("not played, wrong", "unplayed"), ("not judged, wrong", "unjudged"))
    lines += [[name, *(str(getattr(record, field)) for record in records)] for name, field in counts]
    return table(lines, "Results on held-out tasks")


def accuracy_plots(records: Sequence[EvaluationRecord]) -> list[Plot]:
    """Accuracy of each record with its interval, on all tasks and by ability; and calls per episode."""
    if not records:
        return []
    content = [Row(record.label, record.accuracy, record.ci95, number) for number, record in enumerate(records)]
    content += [
        Row(f"{ability}: {record.label}", part.accuracy, part.ci95, number)
        for ability in sorted({name for record in records for name in record.by_ability})
        for number, record in enumerate(records)
        if (part := record.by_ability.get(ability)) is not None
    ]
    calls = [Row(record.label, record.calls_per_episode.mean, None, number) for number, record in enumerate(records)]
    used = [
        Row(f"{record.label}: {words}", record.by_need[need].tool_use, None, number)
        for number, record in enumerate(records)
        for need, words in _NEEDS
        if need in record.by_need
    ]
    plots = [rows("Accuracy", content, "On all tasks, then by ability. Bars are 95 % intervals.", bounds=(0.0, 1.0))]
    plots.append(rows("Tool calls per episode", calls, form=lambda value: f"{value:.2f}"))
    return [*plots, rows("Use of tools by need", used, "Shares of episodes with a call.", bounds=(0.0, 1.0))] if used else plots


def examples(directory: Path, question: Question | None, problems: list[str]) -> str:
    """Some episodes of a directory; what could not be read of them is added to `problems`."""
    found = find_examples(directory)
    if found.broken:
        problems.append(f"{found.broken} lines of trajectory files are broken or half-written")
    parts = [example(directory, kind, name, one, question) for kind, (name, one) in found.episodes.items()]
    said = f'<p class="soft">The latest of each kind among {found.read:,} episodes.</p>'
    return section("Episodes", [said, *parts] if parts else [])


def settings(directory: Path, defaults: Mapping[str, Any], problems: list[str]) -> str:
    """The settings that differ from the defaults, with these."""
    chosen = saved_settings(directory, problems)
    if chosen is None:
        return ""
    own, others = flat(chosen), flat(defaults)
    lines = [[name, value, others.get(name, "–")] for name, value in own.items() if value != others.get(name)]
    return section("Settings that differ from the defaults", [table([["setting", "value", "default"], *lines], "Settings")])


def saved_settings(directory: Path, problems: list[str] | None = None) -> dict[str, Any] | None:
    """What `config.yaml` says, {} if there is none; None, with a line in `problems`, if it cannot be read."""
    path = directory / "config.yaml"
    try:
        content = yaml.safe_load(read_text(path)) if path.exists() else {}
        if not isinstance(content, dict):
            raise ValueError("it is no mapping")
    except (yaml.YAMLError, ValueError, OSError, RecursionError) as error:
        if problems is not None:
            problems.append(f"config.yaml cannot be read: {' '.join(str(error).split())[:200]}")
        return None
    return content


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Settings by their dotted names, as one would write them."""
    named: dict[str, str] = {}
    for name, value in values.items():
        path = f"{prefix}{name}"
        if isinstance(value, Mapping) and value:
            named |= flat(value, f"{path}.")
        elif value != {}:
            named[path] = value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
    return named


def named_problems(records: Sequence[EvaluationRecord]) -> list[str]:
    """The first tasks that could not be played or failed, with the reasons."""
    return [f"{record.label}: {problem.task}: {problem.reason}" for record in records for problem in record.problems]


def _med(directory: Path) -> Mapping[str, Any] | None:
    path = directory / "med.json"
    try:
        content = json.loads(read_text(path)) if path.exists() else None
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def _text(path: Path, problems: list[str]) -> str:
    """A file of text to unfold, empty if there is none; a line in `problems` if it cannot be read."""
    try:
        with open_file(path) as file:
            text = file.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return ""
    except OSError as error:
        problems.append(f"{path.name} cannot be read: {error}")
        return ""
    return f"<details><summary>{shown(path.name)}</summary><pre>{shown(text)}</pre></details>"


def _accuracy(part: Results | None) -> str:
    if part is None or not math.isfinite(part.accuracy):
        return "–"
    low, high = part.ci95
    return f"{100 * part.accuracy:.1f} % ({100 * low:.1f}–{100 * high:.1f})"


def _calls(part: Results | None) -> str:
    return "–" if part is None else f"{part.calls_per_episode.mean:.2f} ({part.calls_per_episode.var:.2f})"


def _by_need(part: Results | None, need: str, field: str) -> str:
    found = None if part is None else part.by_need.get(need)
    return "–" if found is None else f"{100 * getattr(found, field):.1f} % of {found.episodes}"
