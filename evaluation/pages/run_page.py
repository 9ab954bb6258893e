"""`report.html`: a training run in one page, whether it has ended, is running or broke off."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from envs.runtime.atomic import write_file
from envs.runtime.regular_file import read_text
from evaluation.pages.curves import Curve, Mark, curves, short_number
from evaluation.pages.document import Plot, figures, listed, page, section, table
from evaluation.pages.evaluation_page import accuracy_plots, examples, known_records, named_problems, results, settings
from evaluation.pages.examples import Question
from evaluation.pages.history import History, Line, number, read_history, rings, series
from evaluation.pages.panels import RL_PANELS, SFT_PANELS, drawn
from evaluation.report import warnings

PAGE = "report.html"
_STEPS = (
    "Steps count from 1, as on the terminal. In metrics.jsonl, the viewer and the names of episodes they count from 0: "
    "step 1 is rl_000000."
)
_STAGES = {"cold_start": "Cold start", "control": "Control: SFT for as long as RL took"}
_COUNTS = {
    "rollout/infrastructure_failures": "episodes failed for infrastructure reasons and were not learned from",
    "rollout/unplayed": "episodes whose question could not be put to the policy",
    "rollout/cut_by_deadline": "episodes that a deadline cut off",
    "rollout/repeated_after_deadline": "attempts that were repeated after a deadline",
}


def write_run_page(run: Path, defaults: Mapping[str, Any], question: Question | None = None, out: Path | None = None) -> Path:
    """Write `report.html` of a training run into its directory, or into `out`. Returns its path.

    `defaults` are those of its settings, as plain values; `question` reads the text of an episode's prompt.
    """
    history = read_history(run)
    records, problems = known_records(run)
    plots, absent, others = drawn(RL_PANELS, history.rl, _marks(run, history))
    parts = [
        section("Results on held-out tasks", [results(records), figures(accuracy_plots(records))]),
        section("Reinforcement learning", [_alarm(history), figures(plots)] if history.rl else []),
        *(_supervised(run, history, stage, title) for stage, title in _STAGES.items()),
        examples(run, question, problems),
        settings(run, defaults, problems),
        section("Dropped, failed, not recorded", [listed([*problems, *_counts(history, absent), *warnings(records)])]),
        section("Tasks that failed", [listed(named_problems(records))]),
        section("Other metrics of RL", [_others(history.rl, others)]),
    ]
    path = (out or run) / PAGE
    write_file(path, page(f"Run {run.name}", parts, _lead(run, history)))
    return path


def _lead(run: Path, history: History) -> str:
    """Where the run stands, in a sentence."""
    done = ", ".join(f"{len(lines)} steps of {stage}" for stage, lines in history.stages.items()) or "no step yet"
    return f"{run}, as it was at {time.strftime('%Y-%m-%d %H:%M:%S %Z')}: {done}. {_STEPS}"


def _marks(run: Path, history: History) -> list[Mark]:
    """The steps at which the alarm began to ring, in what is left of the run and in what rollbacks undid."""
    kept = [Mark(step, "alarm") for step in rings(history.rl)]
    undone = [Mark(step, "alarm, undone") for step in rings(history.undone)]
    return [*kept, *(mark for mark in undone if mark.step not in {one.step for one in kept})]


def _alarm(history: History) -> str:
    rang, undone = rings(history.rl), rings(history.undone)
    said = f"The collapse alarm began to ring at step {', '.join(f'{s:g}' for s in rang)}." if rang else "The alarm is silent."
    more = f" It also rang at step {', '.join(f'{s:g}' for s in undone)}, which a rollback undid." if undone else ""
    return f"<p>{said}{more}</p>"


def _supervised(run: Path, history: History, stage: str, title: str) -> str:
    lines = history.stages.get(stage, [])
    plots, _, _ = drawn(SFT_PANELS, lines)
    if stage == "cold_start":
        plots = [*_held_out(run), *plots]
    return section(title, [figures(plots)] if plots else [])


def _held_out(run: Path) -> list[Plot]:
    """Held-out accuracy during the cold start, which its checkpoints keep."""
    longest: list[tuple[float, float]] = []
    counts: list[dict[str, float]] = []
    for path in sorted(run.glob("checkpoints/cold_start*/state.json")):
        try:
            state = json.loads(read_text(path))
            measured = [(number(step), number(accuracy)) for step, accuracy in state.get("history", [])]
            by_ability = [
                {name: number(right) / number(of) for name, (right, of) in each.items() if number(of) > 0}
                for each in state.get("by_ability", [])
            ]
        except (ValueError, OSError, AttributeError, TypeError, RecursionError):
            continue
        if len(measured) > len(longest):
            longest, counts = measured, by_ability
    if not longest:
        return []
    steps = [step for step, _ in longest]
    content = [Curve("all", steps, [accuracy for _, accuracy in longest])]
    for name in sorted({name for each in counts for name in each}) if len(counts) == len(steps) else ():
        content.append(Curve(name, steps, [each.get(name, math.nan) for each in counts], dashed=True))
    return [curves("Held-out accuracy", content, "On the validation split, at temperature 1.", bounds=(0.0, 1.0))]


def _counts(history: History, absent: Sequence[str]) -> list[str]:
    """What is missing from the figures, each kind counted."""
    lines = []
    for name, what in _COUNTS.items():
        values = [value for value in series(history.rl, name) if math.isfinite(value)]
        lines.append(f"{sum(values):,.0f} {what}" if values else f"not recorded: {what}")
    dropped = [value for value in series(history.rl, "data/dropped_rows") if math.isfinite(value)]
    lines.append(f"{dropped[-1] if dropped else 0:,.0f} rows of the file were dropped for good")
    if history.undone:
        lines.append(f"{len(history.undone)} steps were undone by rollbacks (rolled_back.jsonl)")
    if history.broken:
        lines.append(f"{history.broken} lines of metrics.jsonl are broken or half-written")
    if history.rl and absent:
        lines.append(f"the run did not record what these plots need: {', '.join(absent)}")
    return lines


def _others(lines: Sequence[Line], metrics: Sequence[str]) -> str:
    """The metrics that no plot shows, in one table."""
    body = []
    for name in metrics:
        known = [value for value in series(lines, name) if math.isfinite(value)]
        body.append([name, *map(short_number, (known[0], known[-1], min(known), max(known)))])
    rows = table([["metric", "first", "last", "lowest", "highest"], *body], "Other metrics") if body else ""
    return f"<details><summary>{len(body)} metrics</summary>{rows}</details>" if rows else ""
