"""The action that one turn of a model takes, independent of its text."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Answer:
    """The final answer's text. `note` says what else the turn held that was not carried out."""

    text: str
    note: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a tool by its name, with its arguments as JSON values."""

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Calls:
    """The calls of one turn, at least one; several run concurrently. `note` says what else it held that was not carried out; the
    model is shown it with the results."""

    calls: tuple[Call, ...]
    note: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Malformed:
    """No action could be read; `reason` tells the model what to write instead."""

    reason: str


class CutOff(str):
    """The text of a turn that the limit of its tokens cut off: nobody knows how it would have gone on."""


Action = Answer | Calls | Malformed
