"""The settings of `toolwise status`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Format(Enum):
    """What `toolwise status` prints."""

    text = "text"
    json = "json"


@dataclass
class StatusConfig:
    """Which run, and how to say where it stands."""

    run: str = ""
    """The directory of a run: the `out=` of the command that made it."""

    format: Format = Format.text
    """`text` for people, `json` for programs."""

    follow: bool = False
    """On a terminal: show it until the run ends."""
