"""`toolwise bench search`: the embedded searches, each beside a peer or a limit."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks import text_search
from benchmarks.figures import Figure


def measure(rounds: int, advance: Callable[[int, str], None]) -> list[Figure]:
    """The figures of the text search, over a million generated documents."""
    return text_search.measure(rounds, advance)
