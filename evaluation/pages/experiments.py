"""The seeds of experiments side by side, for the documents: curves with the range over seeds, and tables in Markdown.

A cell of a table is the mean over seeds, with the lowest and the highest in brackets; shares are in percent. *Start* and *end* are
the means over the first and the last five steps of RL, *spread* is the standard deviation of calls between tasks, in calls.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evaluation.alarm import CollapseAlarm
from evaluation.pages.curves import Curve, Level, Mark, curves, short_number, smoothed
from evaluation.pages.document import Plot
from evaluation.pages.evaluation_page import known_records
from evaluation.pages.history import Line, matching, names, number, read_history, rings, series
from evaluation.pages.marks import Format
from evaluation.pages.plots import percent
from evaluation.report import table_lines
from evaluation.types import EvaluationRecord

EDGE_STEPS = 5
"""Steps of RL at each end over which *start* and *end* are means."""
_CALLS, _ACCURACY = "tools/calls_per_episode/mean", "reward/accuracy"
_SHARE = (0.0, 1.02)


@dataclass(frozen=True, slots=True)
class Seed:
    """A run: the lines of its RL steps and its records by label."""

    name: str
    lines: Sequence[Line]
    records: Mapping[str, EvaluationRecord]


@dataclass(frozen=True, slots=True)
class Experiment:
    """The runs of an experiment that are there and have a step of RL."""

    name: str
    seeds: Sequence[Seed]

    def mean(self, of: Callable[[Seed], float], form: Format) -> str:
        """The mean over seeds, with its range if there are several; a dash if no seed has a value."""
        values = [value for value in map(of, self.seeds) if math.isfinite(value)]
        if not values:
            return "–"
        mean = form(float(np.mean(values)))
        return mean if len(values) == 1 else f"{mean} ({form(min(values))}–{form(max(values))})"


def read_experiment(name: str, runs: Sequence[Path]) -> Experiment:
    """The experiment of these runs; one without a step of RL is left out."""
    seeds = []
    for run in runs:
        records, _ = known_records(run)
        if lines := read_history(run).rl:
            seeds.append(Seed(run.name, lines, {record.label: record for record in records}))
    return Experiment(name, seeds)


def dynamics(experiments: Sequence[Experiment]) -> list[Plot]:
    """Calls, accuracy and use by need over the steps of RL: a curve for each experiment, its band the range over seeds; a mark
    where the alarm first rang."""
    shown = {
        "Tool calls per episode": (_CALLS, _decimal, None),
        "Accuracy in RL": (_ACCURACY, percent, _SHARE),
        "Used a tool if one is needed": ("by_need/needed/tool_use", percent, _SHARE),
        "Used a tool if none is needed": ("by_need/not_needed/tool_use", percent, _SHARE),
    }
    noted = [mark for one in experiments for mark in _alarms(one)]
    plots = []
    for title, (metric, form, bounds) in shown.items():
        content = _curves(_curve(one.name, one.seeds, metric) for one in experiments)
        marks = noted if metric == _CALLS else ()
        plots.append(curves(title, content, form=form, bounds=bounds, noted=marks, across="RL step"))
    return plots


def code_quality(experiments: Sequence[Experiment]) -> list[Plot]:
    """The share of code blocks that compute nothing, and of those whose output is not used."""
    shown = {"Code blocks that compute nothing": "tools/code/empty", "Code blocks whose output is unused": "tools/code/unused"}
    return [
        curves(
            title,
            _curves(_curve(one.name, one.seeds, metric) for one in experiments),
            form=percent,
            bounds=_SHARE,
            across="RL step",
        )
        for title, metric in shown.items()
    ]


def by_ability(experiment: Experiment) -> list[Plot]:
    """Calls and their spread, accuracy and use over the steps of RL, a curve for each ability: the paper's figure."""
    shown = {
        "Tool calls per episode": (_CALLS, _decimal, None),
        "Standard deviation of calls": ("tools/calls_per_episode/std", _decimal, None),
        "Accuracy in RL": (_ACCURACY, percent, _SHARE),
        "Episodes with a call": ("tools/use", percent, _SHARE),
    }
    abilities = abilities_of(experiment)
    return [
        curves(
            title,
            _curves(_curve(name, experiment.seeds, f"ability/{name}/{metric}") for name in abilities),
            form=form,
            bounds=bounds,
            across="RL step",
        )
        for title, (metric, form, bounds) in shown.items()
    ]


def study(experiment: Experiment) -> list[Plot]:
    """Each seed by itself: accuracy in RL with what the cold start and the SFT control reach, and calls per episode."""
    levels = [
        Level(record.accuracy, number, dots)
        for number, seed in enumerate(experiment.seeds)
        for label, dots in (("cold_start", "6 4"), ("control", "1 4"))
        if (record := seed.records.get(label)) is not None
    ]
    shown = {
        "Accuracy in RL (held out: – – cold start, · · SFT control)": (_ACCURACY, percent, _SHARE, levels),
        "Tool calls per episode": (_CALLS, _decimal, None, ()),
    }
    return [
        curves(
            title,
            [_curve(seed.name, [seed], metric, window=None) for seed in experiment.seeds],
            form=form,
            bounds=bounds,
            levels=lines,
            across="RL step",
        )
        for title, (metric, form, bounds, lines) in shown.items()
    ]


def demonstrations(experiments: Mapping[int, Experiment]) -> list[Plot]:
    """Held-out accuracy after the cold start and after RL against the number of demonstrations, on a logarithmic axis."""
    counts = sorted(experiments)
    places = {math.log10(count): f"{count:,}" for count in counts}
    content = []
    for title, label in (("after RL", "rl"), ("after the cold start", "cold_start")):
        found = [[record.accuracy for seed in experiments[n].seeds if (record := seed.records.get(label))] for n in counts]
        mean, low, high = ([float(each(values)) if values else math.nan for values in found] for each in (np.mean, min, max))
        content.append(Curve(title, list(places), mean, low, high, dashed=label != "rl"))
    return [curves("Held-out accuracy", content, form=percent, bounds=_SHARE, across="demonstrations", places=places)]


def dynamics_table(experiments: Sequence[Experiment]) -> str:
    """Three tables in Markdown with a row for each experiment.

    The first has accuracy, calls per episode and use on held-out tasks; use is that of the last steps if RL was not measured. The
    second has the accuracy after RL by kind of task: ability, and whether a tool is needed. The third has calls, their spread, code
    blocks and the alarm in RL's steps.
    """
    measured = [["experiment", "seeds", "RL steps", "accuracy: base", "cold start", "RL", "calls: cold start", "RL"]]
    measured[0] += ["used if needed", "used if not"]
    kinds = sorted({kind for one in experiments for seed in one.seeds for kind in _kinds(seed)})
    right = [["experiment", *(f"{ability}, {need.replace('_', ' ')}" for ability, need in kinds)]]
    trained = [["experiment", "calls: start", "end", "spread: start", "end", "empty code: start", "end"]]
    trained[0] += ["unused output: start", "end", "alarm: step", "calls then"]
    for one in experiments:
        steps = sorted({len(seed.lines) for seed in one.seeds})
        cells = [one.name, str(len(one.seeds)), "–".join(map(str, dict.fromkeys((steps[0], steps[-1])))) if steps else "–"]
        cells += [one.mean(lambda seed, label=label: _accuracy(seed, label), percent_1) for label in ("base", "cold_start", "rl")]
        cells += [one.mean(lambda seed, label=label: _calls(seed, label), _decimal) for label in ("cold_start", "rl")]
        cells += [one.mean(lambda seed, need=need: use(seed, need), percent_1) for need in ("needed", "not_needed")]
        measured.append(cells)
        right.append([one.name, *(one.mean(lambda seed, kind=kind: _kinds(seed).get(kind, math.nan), percent_1) for kind in kinds)])
        trained.append([one.name, *_edges(one, _CALLS, _decimal), *_spreads(one)])
        trained[-1] += [*_edges(one, "tools/code/empty", percent_1), *_edges(one, "tools/code/unused", percent_1), *_rang(one)]
    tables = (measured, right, trained) if kinds else (measured, trained)
    return "\n".join(table_lines([lines[0], ["---"] * len(lines[0]), *lines[1:]]) for lines in tables)


def _edges(experiment: Experiment, metric: str, form: Format) -> list[str]:
    """A metric at the start and at the end."""
    return [experiment.mean(lambda seed, end=end: edge(seed.lines, metric, end), form) for end in (False, True)]


def _spreads(experiment: Experiment) -> list[str]:
    return [experiment.mean(lambda seed, end=end: spread(seed.lines, end), _decimal) for end in (False, True)]


def _rang(experiment: Experiment) -> tuple[str, str]:
    """At which steps the alarm rang, seed by seed, and the calls per episode then."""
    rang = [ring(seed.lines) for seed in experiment.seeds]
    if not any(rang):
        return "silent", "–"
    steps = ", ".join("silent" if pair is None else f"{pair[0]:g}" for pair in rang)
    return steps, ", ".join("–" if pair is None else _decimal(pair[1]) for pair in rang)


def abilities_table(experiment: Experiment) -> str:
    """A row for each ability of an experiment, in Markdown: calls, their standard deviation, accuracy and use in RL's steps."""
    header = ["ability", "calls: start", "end", "deviation: start", "end", "accuracy: start", "end", "with a call: start", "end"]
    metrics = ((_CALLS, _decimal), ("tools/calls_per_episode/std", _decimal), (_ACCURACY, percent_1), ("tools/use", percent_1))
    body = [
        [name, *(cell for metric, form in metrics for cell in _edges(experiment, f"ability/{name}/{metric}", form))]
        for name in abilities_of(experiment)
    ]
    return table_lines([header, ["---"] * len(header), *body])


def abilities_of(experiment: Experiment) -> list[str]:
    """The abilities that any seed has metrics of."""
    found = {one for seed in experiment.seeds for one in matching(names(seed.lines), rf"ability/([^/]+)/{_CALLS}")}
    return sorted(found)


def edge(lines: Sequence[Line], name: str, end: bool) -> float:
    """The mean of a metric over the first or the last five steps of those that have it; NaN if none has."""
    known = [value for value in series(lines, name) if math.isfinite(value)]
    part = known[-EDGE_STEPS:] if end else known[:EDGE_STEPS]
    return float(np.mean(part)) if part else math.nan


def spread(lines: Sequence[Line], end: bool) -> float:
    """The standard deviation of the calls per episode between tasks, in calls, at the start or the end."""
    variance = edge(lines, "tools/variance/between_group", end)
    return math.sqrt(variance) if variance >= 0 else math.nan


def use(seed: Seed, need: str) -> float:
    """The share of held-out episodes with a call after RL, on tasks of a need; of the last steps if RL is not measured yet."""
    record = seed.records.get("rl")
    if record is not None and need in record.by_need:
        return record.by_need[need].tool_use
    return edge(seed.lines, f"by_need/{need}/tool_use", True)


def ring(lines: Sequence[Line]) -> tuple[float, float] | None:
    """The step at which the alarm of this version first rings, and the calls per episode then; None if it is silent.

    Of a run whose metrics are too old to be replayed, the step at which it rang.
    """
    alarm = CollapseAlarm()
    try:
        return next(((number(line.get("step")) + 1, number(line.get(_CALLS))) for line in lines if alarm.replay(line)), None)
    except KeyError:
        for step in rings(lines)[:1]:
            return step, next(number(line.get(_CALLS)) for line in lines if number(line.get("step")) + 1 == step)
        return None


def percent_1(value: float) -> str:
    """A fraction in percent, to a tenth, without the sign."""
    return f"{100 * value:.1f}"


def _decimal(value: float) -> str:
    return f"{value:.2f}" if abs(value) < 10 else short_number(value)


def _accuracy(seed: Seed, label: str) -> float:
    record = seed.records.get(label)
    return math.nan if record is None else record.accuracy


def _calls(seed: Seed, label: str) -> float:
    record = seed.records.get(label)
    return math.nan if record is None else record.calls_per_episode.mean


def _kinds(seed: Seed) -> dict[tuple[str, str], float]:
    """Accuracy after RL on held-out tasks, by ability and need."""
    record = seed.records.get("rl")
    if record is None:
        return {}
    return {
        (ability, need): of_need.accuracy
        for ability, of_ability in record.by_ability.items()
        for need, of_need in of_ability.by_need.items()
    }


def _curves(content: Iterable[Curve]) -> list[Curve]:
    """Those that have a value: the others need no place in the legend."""
    return [curve for curve in content if any(map(math.isfinite, curve.values))]


def _curve(name: str, seeds: Sequence[Seed], metric: str, window: int | None = None) -> Curve:
    """The mean of a metric over seeds, each smoothed, and their range, over the steps that all of them have."""
    steps = min((len(seed.lines) for seed in seeds), default=0)
    values_SN = np.array([smoothed(series(seed.lines[:steps], metric), window) for seed in seeds]).reshape(len(seeds), steps)
    known = [column[~np.isnan(column)] for column in values_SN.T]
    mean, low, high = ([float(each(column)) if len(column) else math.nan for column in known] for each in (np.mean, min, max))
    edges = (low, high) if len(seeds) > 1 else (None, None)
    return Curve(name, [float(step) for step in range(1, steps + 1)], mean, *edges, smooth=False)


def _alarms(experiment: Experiment) -> list[Mark]:
    """The steps at which the alarm first rang in its seeds."""
    rang = (ring(seed.lines) for seed in experiment.seeds)
    return [Mark(pair[0], f"alarm: {experiment.name}") for pair in rang if pair is not None]
