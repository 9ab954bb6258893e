"""The metrics of a run as its files have them, whatever state they are in: running, broken off, or of an earlier version."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evaluation.metric_lines import Line, MetricLines, by_stage

ROLLED_BACK = "rolled_back.jsonl"
"""The lines of steps that a rollback undid."""


@dataclass(frozen=True, slots=True)
class History:
    """The lines of `metrics.jsonl` by stage, in order of steps; how many could not be read; and those that rollbacks undid."""

    stages: dict[str, list[Line]] = field(default_factory=dict)
    broken: int = 0
    undone: list[Line] = field(default_factory=list)

    @property
    def rl(self) -> list[Line]:
        """The steps of RL."""
        return self.stages.get("rl", [])


def read_history(run: Path) -> History:
    """What a run has recorded so far; an empty history if there is no `metrics.jsonl`."""
    files = [MetricLines(run / name) for name in ("metrics.jsonl", ROLLED_BACK)]
    (_, lines), (_, undone) = (file.read() for file in files)
    return History(by_stage(lines), sum(file.broken + file.half for file in files), undone)


def number(value: Any) -> float:
    """A metric as a number; NaN for what is none."""
    try:
        return float(value) if isinstance(value, int | float) else math.nan
    except OverflowError:
        return math.nan


def series(lines: Iterable[Line], name: str) -> list[float]:
    """A metric of each line, NaN if the line has none."""
    return [number(line.get(name)) for line in lines]


def steps(lines: Iterable[Line]) -> list[float]:
    """The steps of lines, counted from 1 as the command shows them."""
    return [number(line.get("step")) + 1 for line in lines]


def names(lines: Iterable[Line]) -> list[str]:
    """The metrics that any of the lines has, sorted."""
    return sorted({name for line in lines for name in line if math.isfinite(number(line[name]))} - _NO_METRICS)


def matching(names: Sequence[str], pattern: str) -> dict[str, str]:
    """The metrics whose names match, by what the pattern's one group has."""
    found = ((re.fullmatch(pattern, name), name) for name in names)
    return {match[1]: name for match, name in found if match}


def rings(lines: Iterable[Line]) -> list[float]:
    """The steps, counted from 1, at which the collapse alarm began to ring."""
    began, before = [], False
    for step, value in ((number(line.get("step")) + 1, number(line.get("tools/collapse_alarm"))) for line in lines):
        if value > 0 and not before and math.isfinite(step):
            began.append(step)
        before = value > 0
    return began


_NO_METRICS = {"stage", "step", "global_step", "rollback"}
