"""`toolwise bench search`: the embedded searches, each compared with a peer."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks import image_search, text_search
from benchmarks.figures import Figure


def measure(rounds: int, advance: Callable[[int, str], None]) -> list[Figure]:
    """The text search over a million generated documents, then the image search over ten thousand pictures."""
    texts = text_search.measure(rounds, lambda done, text: advance(done // 2, f"texts: {text}"))
    return texts + image_search.measure(rounds, lambda done, text: advance((rounds + done) // 2, f"pictures: {text}"))
