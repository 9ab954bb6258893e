"""`metrics.jsonl` of a run as columns, read on as it grows."""

from __future__ import annotations

import threading
from array import array
from collections.abc import Collection, Mapping
from math import isfinite, nan
from pathlib import Path
from typing import Any

from evaluation.metric_lines import Line, MetricLines, kept, read_last

_ABOUT = ("stage", "step", "global_step")
_LONGEST_NAME = 500
_MOST_NAMES = 20_000
_LONGEST_LINE = 1 << 20


class Metrics:
    """The metrics of a run by stage; each series is an array of float64, NaN for a step that has no value."""

    def __init__(self, path: Path) -> None:
        self._path, self._lock, self._lines = path, threading.Lock(), MetricLines(path)
        self._last: tuple[object, tuple[str | None, int | None]] = None, (None, None)
        self._forget()

    def answer(self, names: Collection[str] = ()) -> dict[str, Any]:
        """`names` of all series; `stages`, each with its `steps` and the chosen series, null for a missing value; the
        number of `unreadable` lines, and whether the last one is `half`-written."""
        with self._lock:
            self._read()
            known = sorted({name for series in self._series.values() for name in series})
            stages = {
                stage: {
                    "steps": list(self._steps[stage]),
                    "series": {
                        name: [value if isfinite(value) else None for value in values]
                        for name, values in sorted(series.items())
                        if not names or name in names
                    },
                }
                for stage, series in self._series.items()
            }
            return {"names": known, "stages": stages, "unreadable": self._lines.broken, "half": self._lines.half}

    def last(self) -> tuple[str | None, int | None]:
        """The stage of the last record, and its step; None without one. Only the end of the file is read, if it has changed."""
        try:
            stat = self._path.stat()
            mark = stat.st_ino, stat.st_size, stat.st_mtime_ns
        except OSError:
            return None, None
        if self._last[0] != mark:
            record = read_last(self._path, _LONGEST_LINE)
            self._last = mark, (record["stage"], record["step"]) if record is not None else (None, None)
        return self._last[1]

    def _read(self) -> None:
        anew, records = self._lines.read()
        if anew:
            self._forget()
        for record in records:
            self._take(record)

    def _take(self, record: Line) -> None:
        stage, step = record["stage"], record["step"]
        steps, series = self._steps.setdefault(stage, array("q")), self._series.setdefault(stage, {})
        if (stay := kept(steps, step)) < len(steps):
            del steps[stay:]
            for values in series.values():
                del values[stay:]
        steps.append(step)
        for name, value in record.items():
            if name in _ABOUT or isinstance(value, bool) or not isinstance(value, int | float) or len(name) > _LONGEST_NAME:
                continue
            if name not in series:
                if len(series) >= _MOST_NAMES:
                    continue
                series[name] = array("d", [nan]) * (len(steps) - 1)
            values = series[name]
            values.extend([nan] * (len(steps) - 1 - len(values)))
            try:
                values.append(float(value))
            except OverflowError:
                values.append(nan)
        for values in series.values():
            values.extend([nan] * (len(steps) - len(values)))

    def _forget(self) -> None:
        self._steps: dict[str, array[int]] = {}
        self._series: dict[str, dict[str, array[float]]] = {}


def with_derived(
    answer: dict[str, Any], by_step: Mapping[int, Mapping[str, Mapping[str, float | None]]], names: Collection[str] = ()
) -> dict[str, Any]:
    """The `answer` of `Metrics`, with the series of RL by need that the run did not record, calculated from its episodes.

    `by_step` has what is known of a step: by need the share of episodes with a call, and the accuracy. `derived` names the series
    that were added. A run without metrics of RL gets the steps whose episodes are known.
    """
    rl = answer["stages"].get("rl", {"steps": sorted(by_step), "series": {}})
    added = {}
    for need, figure in ((need, figure) for need in ("needed", "not_needed") for figure in ("tool_use", "accuracy")):
        name = f"by_need/{need}/{figure}"
        if name in answer["names"] or (names and name not in names):
            continue
        values = [by_step[step][need][figure] if step in by_step else None for step in rl["steps"]]
        if any(value is not None for value in values):
            added[name] = values
    if not added:
        return answer | {"derived": []}
    stages = answer["stages"] | {"rl": rl | {"series": rl["series"] | added}}
    return answer | {"names": sorted({*answer["names"], *added}), "stages": stages, "derived": sorted(added)}
