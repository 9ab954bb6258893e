"""Which verified demonstrations are kept: each once, and so many of each ability and difficulty."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from curation.synthesis.attempts import Attempt, Reason
from curation.synthesis.settings import BalanceConfig, SynthesizeConfig
from envs.datasets.columns import absent, number, text

Cell = tuple[str | None, str | None]
"""An ability and a difficulty; None for any."""


@dataclass(frozen=True, slots=True)
class Short:
    """A quota that is not filled."""

    ability: str | None
    difficulty: str | None
    wanted: int
    kept: int


class Selection:
    """The demonstrations that are kept so far. Without quotas, `demonstrations` is all that limits them."""

    def __init__(self, config: SynthesizeConfig) -> None:
        self._most, self._cap = config.demonstrations, config.balance.cap
        self._quotas = _quotas(config)
        self._by = bool(config.balance.abilities), bool(config.balance.difficulties)
        self._cells: Counter[Cell] = Counter()
        self._capped: Counter[Cell] = Counter()
        self._known: set[str] = set()
        self.kept: list[Attempt] = []

    @property
    def divides(self) -> bool:
        """Whether it depends on a task's ability or difficulty if its demonstrations are wanted."""
        return bool(self._quotas) or self._cap is not None

    @property
    def full(self) -> bool:
        """Whether no demonstration of any task is wanted any more."""
        filled = self._quotas and all(self._cells[cell] >= quota for cell, quota in self._quotas.items())
        return bool(filled) or (self._most is not None and len(self.kept) >= self._most)

    def wants(self, ability: str, difficulty: str) -> bool:
        """Whether another demonstration of such a task is wanted."""
        cell = self._cell(ability, difficulty)
        return (
            not self.full
            and (not self._quotas or self._cells[cell] < self._quotas.get(cell, 0))
            and (self._cap is None or self._capped[ability, difficulty] < self._cap)
        )

    def add(self, attempt: Attempt) -> Reason | None:
        """Keep a verified demonstration, or say why not."""
        if attempt.actions in self._known:
            return Reason.duplicate
        if not self.wants(attempt.ability, attempt.difficulty):
            return Reason.surplus
        self._known.add(attempt.actions)
        self._cells[self._cell(attempt.ability, attempt.difficulty)] += 1
        self._capped[attempt.ability, attempt.difficulty] += 1
        self.kept.append(attempt)
        return None

    def short(self) -> list[Short]:
        """The quotas that are not filled."""
        return [
            Short(*cell, wanted=quota, kept=self._cells[cell]) for cell, quota in self._quotas.items() if self._cells[cell] < quota
        ]

    def _cell(self, ability: str, difficulty: str) -> Cell:
        return (ability if self._by[0] else None), (difficulty if self._by[1] else None)


def select(config: SynthesizeConfig, attempts: Iterable[Attempt]) -> tuple[Selection, list[tuple[Attempt, Reason, str]]]:
    """What is kept of all attempts, and those that are rejected, each with the reason and what it says about it.

    The attempts are taken in the order of their questions, so that what is kept does not depend on which ended first.
    """
    selection, rejected = Selection(config), []
    for attempt in sorted(attempts, key=lambda attempt: attempt.place):
        reason = attempt.reason or selection.add(attempt)
        if reason is not None:
            rejected.append((attempt, reason, attempt.detail))
    return selection, rejected


def never_drawn(balance: BalanceConfig, drawn: Collection[tuple[str, str]]) -> list[str]:
    """A line for the abilities, and one for the difficulties, that have shares and of which no question is, of those `drawn`."""
    lines = []
    for place, (setting, shares) in enumerate([("abilities", balance.abilities), ("difficulties", balance.difficulties)]):
        there = {cell[place] for cell in drawn}
        if drawn and (missing := sorted(map(str, shares.keys() - there))):
            lines.append(
                f"balance.{setting} has {', '.join(missing)}, and no question that was looked at is of that kind: they are of "
                f"{', '.join(sorted(there))}"
            )
    return lines


def _quotas(config: SynthesizeConfig) -> dict[Cell, int]:
    """The number of demonstrations of each cell, by largest remainders; none if there are no shares."""
    abilities, difficulties = config.balance.abilities, config.balance.difficulties
    if not abilities and not difficulties:
        return {}
    assert config.demonstrations is not None
    shares = {
        (ability, difficulty): one * other
        for ability, one in _shares(abilities).items()
        for difficulty, other in _shares(difficulties).items()
    }
    exact = {cell: share * config.demonstrations for cell, share in shares.items()}
    quotas = {cell: int(number) for cell, number in exact.items()}
    left = config.demonstrations - sum(quotas.values())
    for cell in sorted(exact, key=lambda cell: quotas[cell] - exact[cell])[:left]:
        quotas[cell] += 1
    return quotas


def _shares(given: Mapping[str, float]) -> dict[str | None, float]:
    total = sum(given.values())
    shares: dict[str | None, float] = {name: share / total for name, share in given.items()}
    return shares or {None: 1.0}


RATES = ("pass_rate_with", "pass_rate_without")
"""Columns of a curated file, the first of them first: the share of right answers of the student."""
_LEVELS = ("difficulty", "level")


def difficulty_of(row: Mapping[str, Any] | None, column: str | None, needed_tools: Iterable[str] | None) -> str:
    """How difficult a question is: by the named column of its row, a usual one, or the number of tools that it needs.

    A share of right answers, or any number with a decimal point from 0 to 1, is "hard" up to a quarter, "medium" up to three
    quarters, "easy" above; any other value stands for itself, as do those of `difficulty` and `level`, of which more is harder.
    """
    names = (column,) if column else (*RATES, *_LEVELS)
    for name in names:
        value = (row or {}).get(name)
        if absent(value):
            continue
        share = number(value) if name in RATES or (isinstance(value, float) and name not in _LEVELS) else None
        if share is not None and 0 <= share <= 1:
            return "hard" if share <= 0.25 else "medium" if share <= 0.75 else "easy"
        return text(value)
    if needed_tools is None:
        return "unknown"
    count = len(tuple(needed_tools))
    return f"needs {count or 'no'} {'tool' if count == 1 else 'tools'}"
