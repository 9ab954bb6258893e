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
    """Each figure is the median over this many rounds, in which the two sides take turns. A noisy machine needs more."""


@dataclass(slots=True)
class Figure:
    """One value per round for each side, in `unit`. `of` names the reference, `on` the machine if the figure is one of its own."""

    name: str
    unit: str
    of: str
    ours: list[float] = field(default_factory=list)
    reference: list[float] = field(default_factory=list)
    on: str = ""

    def add(self, ours: float, reference: float) -> None:
        """Add the values of one round."""
        self.ours.append(ours)
        self.reference.append(reference)

    def record(self) -> dict[str, Any]:
        """The medians over all rounds; `ratio` is ours divided by the reference, None if that is 0."""
        ours, reference = median(self.ours), median(self.reference)
        return {
            "figure": self.name,
            "ours": ours,
            "reference": reference,
            "of": self.of,
            "ratio": ours / reference if reference else None,
            "unit": self.unit,
            **({"on": self.on} if self.on else {}),
        }


@dataclass(frozen=True, slots=True)
class Said:
    """What is to be known of a part of a benchmark beside its figures. `failed`: it has none, and this is why."""

    name: str
    text: str
    failed: bool
    on: str = ""

    def __str__(self) -> str:
        return f"{self.name}: {'not measured: ' if self.failed else ''}{self.text}"

    def record(self) -> dict[str, Any]:
        """The part's name and the text, under `failed` or `said`."""
        return {"figure": self.name, "failed" if self.failed else "said": self.text, "on": self.on}


def table(records: Sequence[dict[str, Any]]) -> Table:
    """The records side by side, to three significant digits."""
    columns = Table("figure")
    for name in ("ours", "reference", "ratio"):
        columns.add_column(name, justify="right")
    for name in ("unit", "reference is"):
        columns.add_column(name)
    for record in records:
        if "ratio" not in record:
            continue
        numbers = (_three_digits(record[name]) for name in ("ours", "reference", "ratio"))
        columns.add_row(record["figure"], *numbers, record["unit"], record["of"])
    return columns


def _three_digits(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if value >= 100 else f"{value:#.3g}"
