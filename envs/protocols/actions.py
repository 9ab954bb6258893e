"""The action that one turn of a model takes, independent of its text."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Answer:
    """The final answer's text."""

    text: str


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a tool by its name, with its arguments as JSON values."""

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Calls:
    """The calls of one turn, at least one; several run concurrently."""

    calls: tuple[Call, ...]


@dataclass(frozen=True, slots=True)
class Malformed:
    """No action could be read; `reason` tells the model what to write instead."""

    reason: str


Action = Answer | Calls | Malformed
