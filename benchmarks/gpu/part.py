"""One part of the benchmark, in a process of its own: `python -m benchmarks.gpu.part NAME PLACE ROUNDS SECONDS`.

It reads PLACE/setup.json and writes PLACE/NAME.json: figures, and what else is to be said.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path

from benchmarks.figures import Figure
from benchmarks.gpu.setup import Setup


@dataclass(slots=True)
class Results:
    """What a part has found. `machine` is filled in by `prepare`."""

    figures: list[Figure] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    machine: str | None = None

    def to_json(self) -> str:
        """Without the machine if it is not known."""
        figures = [{name: value for name, value in asdict(figure).items() if name != "on"} for figure in self.figures]
        return json.dumps({"figures": figures, "said": self.said} | ({"machine": self.machine} if self.machine else {}))


@dataclass(frozen=True, slots=True)
class Job:
    """A part's sizes, its directory, the most rounds that it may measure, and when it has to be done (`time.monotonic`)."""

    setup: Setup
    place: Path
    rounds: int
    ends: float

    @property
    def left_s(self) -> float:
        """Seconds that are left."""
        return self.ends - time.monotonic()


MARGIN_S = 8.0
"""By so much a part ends itself before it is ended, and can say what it waited for."""

PARTS: dict[str, tuple[str, dict[str, str]]] = {
    "prepare": ("preparation", {}),
    "run_servers": ("training", {"engine": "servers"}),
    "learning": ("learning", {"which": "whole"}),
    "parity": ("parity", {}),
    "sampling": ("sampling", {}),
    "run_in_process": ("training", {"engine": "in_process"}),
    "learning_wide": ("learning", {"which": "wide"}),
}
"""The module of each part, imported by itself, and what its `measure` is asked."""


if __name__ == "__main__":
    name, place, rounds, seconds = sys.argv[1:]
    job = Job(Setup.read(Path(place)), Path(place), int(rounds), time.monotonic() + float(seconds) - MARGIN_S)
    module, asked = PARTS[name]
    results: Results = import_module(f"benchmarks.gpu.{module}").measure(job, **asked)
    Path(place, f"{name}.json").write_text(results.to_json())
