"""The callbacks by which long work reports its progress, independent of how it is shown."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

Advance = Callable[[int, str], None]
"""Called with the number of finished units and a short text about the latest one, which may be empty."""

Progress = Callable[[str, int], AbstractContextManager[Advance]]
"""Given a title and the number of units: shows the progress while it is entered."""


def silent(done: int, text: str) -> None:
    """An `Advance` that shows nothing."""
