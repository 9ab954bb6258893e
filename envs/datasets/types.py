"""Types of a dataset: a question as it was read from a row, and how malformed rows are reported."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from envs.errors import DatasetError
from envs.pictures import Source
from envs.scoring.types import EXACT, Scoring

log = logging.getLogger(__name__)

MALFORMED = ("error", "skip")
"""What happens if rows cannot be used: they are an error, or they are skipped."""

_NAMED = 3


@dataclass(frozen=True, slots=True)
class Question:
    """The question of a row. `tools` are those that it allows, None for all; the rest is as in `envs.types.Task`."""

    text: str
    answer: str
    abilities: tuple[str, ...]
    source: str | None = None
    pictures: tuple[Source, ...] = ()
    needed_tools: tuple[str, ...] | None = None
    tools: tuple[str, ...] | None = None
    scoring: Scoring = EXACT
    system: str = ""
    views: tuple[Source, ...] = ()

    @property
    def shown(self) -> tuple[Source, ...]:
        """The pictures that the policy is shown."""
        return self.views or self.pictures


def report_malformed(path: Path, bad: Sequence[tuple[int, str]], malformed: str) -> None:
    """Reports rows that cannot be used, given as (number, reason): raises DatasetError, or logs that they are skipped."""
    if malformed not in MALFORMED:
        raise DatasetError(f"malformed is {malformed!r}: write one of {', '.join(MALFORMED)}")
    if not bad:
        return
    summary = "; ".join(f"row {number}: {reason}" for number, reason in bad[:_NAMED])
    summary += f"; and {len(bad) - _NAMED} more" if len(bad) > _NAMED else ""
    if malformed == "error":
        raise DatasetError(f"{path}, {summary} (malformed=skip leaves such rows out)")
    log.warning("%s: %d malformed rows are left out: %s", path, len(bad), summary)
