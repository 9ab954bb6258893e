"""How an answer is compared with the truth. Plain data, so that a row of a dataset can carry it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any

MAX_ANSWER_CHARACTERS = 300
"""An answer as long as this scores 0: it is a search through candidates, not an answer."""

MAX_RUBRIC_ANSWER_CHARACTERS = 16_384
"""As much of an answer as a judge is shown for RUBRIC, whose answers are explanations and not short."""

CRITICAL_WEIGHT = 4.0
"""The weight from which on a rubric must be met (VisualToolBench: weights 1 to 5, 4 and 5 are critical)."""

DEFAULT_RELATIVE = 1e-6
"""The tolerance of a NUMBER that names none. It forgives rounding, so whole numbers must be equal."""


class Kind(StrEnum):
    """The kind of answer that a question asks for."""

    EXACT = "exact"
    NUMBER = "number"
    CHOICE = "choice"
    MATH = "math"
    LIST = "list"
    DATE = "date"
    JUDGE = "judge"
    RUBRIC = "rubric"


@dataclass(frozen=True, slots=True)
class Scoring:
    """The rule of one task.

    `accepted` are further right answers. A NUMBER is right within `relative` (a share of the truth) or `absolute` (in the truth's
    unit), whichever allows more; `unit` is what the question asks for, in a name that pint knows, and what an answer without a unit
    is read in. `options` are the texts of a CHOICE by letter. An `ordered` LIST must name its parts in order. `item` is the rule
    for each part of a LIST. For a JUDGE, a model decides whether the answer agrees with the truth; for a RUBRIC, whether it meets
    each of the `rubrics`, which are pairs of a criterion and its weight. Raises ValueError if the settings contradict each other.
    """

    kind: Kind = Kind.EXACT
    accepted: tuple[str, ...] = ()
    relative: float = DEFAULT_RELATIVE
    absolute: float = 1e-9
    unit: str = ""
    options: tuple[tuple[str, str], ...] = ()
    ordered: bool = True
    item: Kind = Kind.EXACT
    rubrics: tuple[tuple[str, float], ...] = ()

    def __post_init__(self) -> None:
        if self.kind is Kind.CHOICE and not self.options:
            raise ValueError("a multiple choice needs its options")
        if (self.kind is Kind.RUBRIC) != bool(self.rubrics):
            raise ValueError("rubrics and the kind rubric belong together")
        if any(weight <= 0 for _, weight in self.rubrics):
            raise ValueError("the weight of a rubric is more than 0")
        if self.item in (Kind.LIST, Kind.CHOICE, Kind.JUDGE, Kind.RUBRIC):
            raise ValueError(f"the parts of a list cannot be of the kind {self.item}")
        if self.relative < 0 or self.absolute < 0:
            raise ValueError("a tolerance cannot be negative")

    @classmethod
    def from_mapping(cls, record: Mapping[str, Any]) -> Scoring:
        """The rule that a row of a dataset describes. Raises ValueError if it cannot be read."""
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(record) - known):
            raise ValueError(f"scoring has {', '.join(unknown)}: write some of {', '.join(sorted(known))}")
        values = dict(record)
        for name in ("kind", "item"):
            if name in values:
                values[name] = Kind(values[name])
        if "accepted" in values:
            values["accepted"] = tuple(map(str, values["accepted"]))
        if "options" in values:
            options = values["options"]
            pairs = options.items() if isinstance(options, Mapping) else options
            values["options"] = tuple((str(letter), str(text)) for letter, text in pairs)
        if "rubrics" in values:
            values["rubrics"] = tuple((str(criterion), float(weight)) for criterion, weight in values["rubrics"])
        return cls(**values)


EXACT = Scoring()
"""The rule of a task that names none."""
