"""The callbacks by which long work reports its progress, independent of how it is shown."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

Advance = Callable[[int, str], None]
"""Called with the number of finished units and a short text about the latest one, which may be empty."""

Progress = Callable[[str, int], AbstractContextManager[Advance]]
"""Given a title and the number of units: shows the progress while it is entered."""

Snapshot = Callable[[], dict[str, Any]]
"""Where long work stands now, as plain JSON. Any thread may call it."""

View = Callable[[Snapshot], AbstractContextManager[None]]
"""Shows where long work stands while it is entered."""


def silent(done: int, text: str) -> None:
    """An `Advance` that shows nothing."""


class Incidents:
    """What went wrong and was mended: how often each kind of failure was met, and the newest `most` of them.

    Any thread may read it.

    Failures in a row for the same reason are one, with the number of times.
    """

    def __init__(self, most: int = 20) -> None:
        self._newest: deque[dict[str, Any]] = deque(maxlen=most)
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def add(self, kind: str, reason: str) -> None:
        """Count a failure of a kind, with its reason in one line."""
        with self._lock:
            self._counts[kind] += 1
            last = self._newest[-1] if self._newest else None
            if last is not None and (last["kind"], last["reason"]) == (kind, reason):
                last |= {"time": time.time(), "times": last["times"] + 1}
            else:
                self._newest.append({"time": time.time(), "kind": kind, "reason": reason, "times": 1})

    def counts(self) -> dict[str, int]:
        """How many failures there were of each kind."""
        with self._lock:
            return dict(self._counts)

    def newest(self) -> list[dict[str, Any]]:
        """The newest, the last one last: `time` (Unix seconds), `kind`, `reason` and `times`."""
        with self._lock:
            return [dict(incident) for incident in self._newest]
