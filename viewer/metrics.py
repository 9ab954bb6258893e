"""`metrics.jsonl` of a run as columns, read on as it grows."""

from __future__ import annotations

import json
import os
import threading
from array import array
from collections.abc import Collection, Mapping
from math import isfinite, nan
from pathlib import Path
from typing import Any

_ABOUT = ("stage", "step", "global_step")
_LONGEST_NAME = 500
_MOST_NAMES = 20_000
_EDGE = 256
_LONGEST_LINE = 1 << 20


class Metrics:
    """The metrics of a run by stage; each series is an array of float64, NaN for a step that has no value."""

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()
        self._forget()

    def answer(self, names: Collection[str] = ()) -> dict[str, Any]:
        """`names` of all series; `stages`, each with its `steps` and the chosen series, null for a missing value; `unreadable`
        lines."""
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
            return {"names": known, "stages": stages, "unreadable": self._unreadable}

    def last(self) -> tuple[str | None, int | None]:
        """The stage of the last whole line, and its step; None without one. Only the end of the file is read."""
        try:
            with self._path.open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - _LONGEST_LINE))
                lines = file.read(_LONGEST_LINE).split(b"\n")[:-1]
            record = json.loads(lines[-1])
            stage, step = record["stage"], record["step"]
        except (OSError, ValueError, LookupError, TypeError, RecursionError):
            return None, None
        return (stage, step) if isinstance(stage, str) and isinstance(step, int) else (None, None)

    def _read(self) -> None:
        try:
            stat = self._path.stat()
        except OSError:
            self._forget()
            return
        seen = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
        if seen == self._seen:
            return
        try:
            with self._path.open("rb") as file:
                if not self._is_same(file, stat):
                    self._forget()
                self._inode = stat.st_ino
                file.seek(self._offset)
                while line := file.readline():
                    if not line.endswith(b"\n"):
                        break
                    self._take(line)
                    self._offset += len(line)
                file.seek(max(0, self._offset - _EDGE))
                self._tail = file.read(min(_EDGE, self._offset))
        except OSError:
            self._forget()
            return
        self._seen = seen

    def _take(self, line: bytes) -> None:
        try:
            record = json.loads(line)
            stage, step = record["stage"], record["step"]
        except (ValueError, KeyError, TypeError, RecursionError):
            self._unreadable += bool(line.strip())
            return
        if not isinstance(stage, str) or isinstance(step, bool) or not isinstance(step, int) or not 0 <= step < 1 << 53:
            self._unreadable += 1
            return
        steps, series = self._steps.setdefault(stage, array("q")), self._series.setdefault(stage, {})
        while steps and steps[-1] >= step:  # a run that goes on from a checkpoint writes its steps again
            steps.pop()
            for values in series.values():
                del values[len(steps) :]
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

    def _is_same(self, file: Any, stat: os.stat_result) -> bool:
        """Whether the file only grew."""
        if stat.st_ino != self._inode or stat.st_size < self._offset:
            return False
        file.seek(max(0, self._offset - _EDGE))
        return file.read(min(_EDGE, self._offset)) == self._tail

    def _forget(self) -> None:
        self._steps: dict[str, array[int]] = {}
        self._series: dict[str, dict[str, array[float]]] = {}
        self._offset, self._unreadable, self._inode, self._tail = 0, 0, 0, b""
        self._seen: tuple[int, int, int] | None = None


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
