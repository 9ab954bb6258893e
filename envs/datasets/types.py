"""Types of a dataset: a row as it was read, and what it asks."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from envs.errors import DatasetError
from envs.scoring.types import EXACT, Scoring

log = logging.getLogger(__name__)

MALFORMED = ("error", "skip")
"""What may be done with a file that has rows which cannot be used."""

_NAMED = 3

Picture = bytes | Path
"""An encoded image, or the file that holds one."""


@dataclass(frozen=True, slots=True)
class Question:
    """What a row asks. `tools` are those that it allows, None for all; `needed_tools` as in `envs.types.Task`."""

    text: str
    answer: str
    abilities: tuple[str, ...]
    source: str | None = None
    pictures: tuple[Picture, ...] = ()
    needed_tools: tuple[str, ...] | None = None
    tools: tuple[str, ...] | None = None
    scoring: Scoring = EXACT


def report_malformed(path: Path, bad: Sequence[tuple[int, str]], malformed: str) -> None:
    """Names rows that cannot be used, given as (number, reason): raises DatasetError, or logs that they are left out."""
    if malformed not in MALFORMED:
        raise DatasetError(f"malformed is {malformed!r}: write one of {', '.join(MALFORMED)}")
    if not bad:
        return
    told = "; ".join(f"row {number}: {reason}" for number, reason in bad[:_NAMED])
    told += f"; and {len(bad) - _NAMED} more" if len(bad) > _NAMED else ""
    if malformed == "error":
        raise DatasetError(f"{path}, {told} (malformed=skip leaves such rows out)")
    log.warning("%s: %d malformed rows are left out: %s", path, len(bad), told)
