"""Where the time of a step goes."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager

import numpy as np

from rollout.summary import EpisodeSummary


class Clock:
    """Wall time of the parts of a step, in seconds."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._parts: dict[str, float] = {}

    @contextmanager
    def time(self, part: str) -> Generator[None]:
        """Count the time inside as `part`."""
        started = time.monotonic()
        yield
        self._parts[part] = time.monotonic() - started

    @property
    def total_s(self) -> float:
        """Seconds since the step began."""
        return time.monotonic() - self._started

    def metrics(self, episodes: Sequence[EpisodeSummary]) -> dict[str, float]:
        """`timing_s/…`: `rollout`, `learn`, `sync` and `step` are wall time of the driver; `generate` and `tool` are an episode's
        mean.

        An episode generates while others wait for their tools, so `generate` and `tool` do not add up to `rollout`.
        """
        generate = float(np.mean([episode.generate_s for episode in episodes]))
        tool = float(np.mean([episode.tool_s for episode in episodes]))
        parts = self._parts | {"generate": generate, "tool": tool, "step": self.total_s}
        return {f"timing_s/{name}": seconds for name, seconds in parts.items()}
