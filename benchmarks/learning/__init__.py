"""What the learner costs, measured beside what it need not exceed: `toolwise bench learner`, one module for a figure or two."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from benchmarks.figures import Figure

REPEATED = ("step_tokens", "checkpoint_peak")
ONCE = ("padding", "balance", "head_memory", "publish", "driver_bytes")
"""Figures that do not vary, or that take their own rounds."""


def measure(rounds: int, advance: Callable[[int, str], None]) -> list[Figure]:
    """All figures, each measured in processes of its own."""
    figures: list[Figure] = []
    names = (*ONCE, *REPEATED)
    for number, name in enumerate(names):
        advance(rounds * number // len(names), name)
        module = import_module(f"benchmarks.learning.{name}")
        figures += module.measure(rounds) if name in REPEATED else module.measure()
    advance(rounds, "done")
    return figures
