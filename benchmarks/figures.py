"""A figure: one thing measured on two sides in one run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from rich.table import Table


@dataclass
class BenchConfig:
    """The settings of `toolwise bench`."""

    out: str = ""
    """The file to write; if empty, runs/bench/NAME.json."""
    rounds: int = 10
    """Each figure is the median over so many rounds, in which the two sides take turns. A noisy machine needs more."""


@dataclass(slots=True)
class Figure:
    """One value a round for each side, in `unit`. `of` names what ours is held against."""

    name: str
    unit: str
    of: str
    ours: list[float] = field(default_factory=list)
    reference: list[float] = field(default_factory=list)

    def add(self, ours: float, reference: float) -> None:
        """What one round gave."""
        self.ours.append(ours)
        self.reference.append(reference)

    def record(self) -> dict[str, Any]:
        """The medians over all rounds; `ratio` is ours divided by the reference."""
        ours, reference = median(self.ours), median(self.reference)
        return {
            "figure": self.name,
            "ours": ours,
            "reference": reference,
            "of": self.of,
            "ratio": ours / reference,
            "unit": self.unit,
        }


def table(records: Sequence[dict[str, Any]]) -> Table:
    """The records side by side, to three significant digits."""
    shown = Table("figure")
    for name in ("ours", "reference", "ratio"):
        shown.add_column(name, justify="right")
    for name in ("unit", "reference is"):
        shown.add_column(name)
    for record in records:
        numbers = (_three_digits(record[name]) for name in ("ours", "reference", "ratio"))
        shown.add_row(record["figure"], *numbers, record["unit"], record["of"])
    return shown


def _three_digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:#.3g}"
