"""What became of a synthesis: for each teacher, ability and difficulty, what was asked, kept and rejected, and what it cost."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from curation.synthesis.attempts import MEANINGS, Attempt, Reason
from curation.synthesis.ledger import Spending
from curation.synthesis.selection import Short


@dataclass(frozen=True, slots=True)
class Line:
    """The attempts of one kind: how many ended, how many of them are kept, and how many rejected for which reason."""

    asked: int
    kept: int
    rejected: dict[str, int]


@dataclass(frozen=True, slots=True)
class Report:
    """`synthesis.json`. `units` is the number of questions times samples; `not_asked` of them were not needed, or not reached.

    `stopped` says why the command ended before all were asked. `longest` is the longest kept demonstration in the student's tokens.
    `budget`, like all costs, is in the currency of the prices.
    """

    tasks: str
    student: str
    protocol: Any
    units: int
    not_asked: int
    stopped: str | None
    all: Line
    teachers: dict[str, Line]
    spending: dict[str, Spending]
    models: dict[str, str]
    by_ability: dict[str, Line]
    by_difficulty: dict[str, Line]
    by_cell: dict[str, Line]
    short: list[Short]
    longest: int
    budget: float | None
    token_budget: int | None
    notes: list[str] = field(default_factory=list)

    @property
    def cost(self) -> float:
        """What all teachers cost."""
        return sum(one.cost for one in self.spending.values())

    def to_json(self) -> str:
        """The text of `synthesis.json`."""
        return json.dumps(asdict(self) | {"cost": self.cost}, indent=2, ensure_ascii=False) + "\n"

    def to_markdown(self) -> str:
        """The text of `synthesis.md`."""
        spent = [
            [
                *(name, self.models[name], line.asked, line.kept, f"{line.kept / line.asked:.0%}" if line.asked else "–"),
                *(f"{used.requests:,}", f"{used.tokens_in:,}", f"{used.tokens_out:,}", f"{used.cost:.4g}"),
            ]
            for name, line in self.teachers.items()
            for used in [self.spending.get(name, Spending())]
        ]
        headers = ["teacher", "model", "asked", "kept", "share kept", "requests", "tokens in", "tokens out", "cost"]
        parts = [
            f"# Demonstrations on {self.tasks}\n",
            f"{self.all.kept} kept of {self.all.asked} asked; {self.not_asked} of {self.units} not asked. "
            f"The longest has {self.longest:,} tokens of {self.student}.\n",
            *([f"{self.stopped}\n"] if self.stopped else []),
            _table(headers, spent),
            "## Rejected\n",
            _table(["reason", *self.teachers, "all"], [self._rejected(reason) for reason in Reason if self._count(reason)]),
            "## By ability and difficulty\n",
            _table(
                ["ability", "difficulty", "asked", "kept"],
                [[*cell.split("\t"), line.asked, line.kept] for cell, line in self.by_cell.items()],
            ),
            *self._warnings(),
        ]
        return "\n".join(parts)

    def _rejected(self, reason: Reason) -> list[Any]:
        counts = [line.rejected.get(reason, 0) for line in (*self.teachers.values(), self.all)]
        return [f"{reason}: {MEANINGS[reason]}", *counts]

    def _count(self, reason: Reason) -> int:
        return self.all.rejected.get(reason, 0)

    def warnings(self) -> list[str]:
        """What is not as it was asked for, a line each."""
        lines = [
            f"not balanced: {' '.join(filter(None, (one.ability, one.difficulty)))}: {one.kept} of {one.wanted} demonstrations"
            for one in self.short
        ]
        return [*lines, *self.notes]

    def _warnings(self) -> list[str]:
        return [f"- {line}\n" for line in self.warnings()]


def whole(kept: Iterable[Attempt], rejected: Iterable[tuple[Attempt, Reason, str]]) -> Line:
    """The line of all attempts together."""
    return lines_by(lambda _: "", kept, rejected).get("", Line(0, 0, {}))


def lines_by(
    key: Callable[[Attempt], str], kept: Iterable[Attempt], rejected: Iterable[tuple[Attempt, Reason, str]]
) -> dict[str, Line]:
    """The lines of all kinds that `key` tells apart, sorted by name."""
    good, bad = Counter(map(key, kept)), Counter((key(attempt), str(reason)) for attempt, reason, _ in rejected)
    reasons: dict[str, dict[str, int]] = {name: {} for name in sorted({*good, *(name for name, _ in bad)})}
    for (name, reason), count in sorted(bad.items()):
        reasons[name][reason] = count
    return {name: Line(good[name] + sum(counts.values()), good[name], counts) for name, counts in reasons.items()}


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(str(cell).replace('|', '\\|') for cell in line)} |\n" for line in lines)
