"""`metrics.jsonl` of a run as it is, whatever state it is in: growing, cut short by a kill, or broken.

A record is a JSON object with a `stage`, a text, and a `step`, a whole number from 0 on. Any other line is broken, but for empty
ones and a last one without its end, which is half-written.
"""

from __future__ import annotations

import json
import os
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from envs.runtime.regular_file import open_file

Line = Mapping[str, Any]

_EDGE = 256


def parsed(line: bytes) -> Line | None:
    """The record of a line; None for what is none."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or not isinstance(record.get("stage"), str):
        return None
    step = record.get("step")
    return record if isinstance(step, int) and not isinstance(step, bool) and 0 <= step < 1 << 53 else None


def kept(steps: Sequence[int], step: int) -> int:
    """How many of a stage's steps, which grow, stay when `step` comes: a run that goes on from a checkpoint writes steps again."""
    return bisect_left(steps, step)


def by_stage(lines: Iterable[Line]) -> dict[str, list[Line]]:
    """The records of each stage, in order of their steps: a step that comes again replaces those from it on."""
    steps: dict[str, list[int]] = {}
    stages: dict[str, list[Line]] = {}
    for line in lines:
        stage, step = line["stage"], line["step"]
        known, records = steps.setdefault(stage, []), stages.setdefault(stage, [])
        stay = kept(known, step)
        known[stay:], records[stay:] = [step], [line]
    return stages


class MetricLines:
    """Reads a file of metrics, and reads on as it grows. `broken` counts its broken lines, `half` is True while the last one is
    half-written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._forget()

    def read(self) -> tuple[bool, list[Line]]:
        """Whether what was read before no longer holds, as the file is read first, was written anew, or cannot be read; and the
        records that are new."""
        try:
            with open_file(self._path) as file:
                stat = os.fstat(file.fileno())
                if (seen := (stat.st_ino, stat.st_size, stat.st_mtime_ns)) == self._seen:
                    return False, []
                anew = not self._is_same(file, stat)
                if anew:
                    self._forget()
                self._inode = stat.st_ino
                file.seek(self._offset)
                records, self.half = [], False
                while line := file.readline():
                    record = parsed(line)
                    if not line.endswith(b"\n") and record is None:
                        self.half = bool(line.strip())
                        break
                    if record is not None:
                        records.append(record)
                    else:
                        self.broken += bool(line.strip())
                    self._offset += len(line)
                file.seek(max(0, self._offset - _EDGE))
                self._tail = file.read(min(_EDGE, self._offset))
        except OSError:
            self._forget()
            return True, []
        self._seen = seen
        return anew, records

    def _is_same(self, file: BinaryIO, stat: os.stat_result) -> bool:
        """Whether the file only grew."""
        if stat.st_ino != self._inode or stat.st_size < self._offset:
            return False
        file.seek(max(0, self._offset - _EDGE))
        return file.read(min(_EDGE, self._offset)) == self._tail

    def _forget(self) -> None:
        self.broken, self.half = 0, False
        self._offset, self._inode, self._tail = 0, -1, b""
        self._seen: tuple[int, int, int] | None = None


class End(NamedTuple):
    """The records of a file's end; how many of its lines are `broken`, and whether the last one is `half`-written; whether the end
    is the `whole` file."""

    records: list[Line]
    broken: int = 0
    half: bool = False
    whole: bool = True


def read_end(path: Path, size: int) -> End:
    """What the last `size` bytes of a file hold; nothing if it cannot be read."""
    lines, whole = _last_lines(path, size)
    found = [(line, parsed(line)) for line in lines if line.strip()]
    records = [record for _, record in found if record is not None]
    half = bool(lines and lines[-1].strip()) and found[-1][1] is None
    return End(records, len(found) - len(records) - half, half, whole)


def read_last(path: Path, size: int) -> Line | None:
    """The last record among the last `size` bytes of a file; None if there is none, or the file cannot be read."""
    return next((record for record in map(parsed, reversed(_last_lines(path, size)[0])) if record is not None), None)


def _last_lines(path: Path, size: int) -> tuple[list[bytes], bool]:
    """The lines of the last `size` bytes of a file but for one that begins before them, and whether that is the whole file."""
    try:
        with open_file(path) as file:
            length = file.seek(0, os.SEEK_END)
            file.seek(max(0, length - size))
            return file.read(size).split(b"\n")[1 if length > size else 0 :], length <= size
    except OSError:
        return [], True
