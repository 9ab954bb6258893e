"""Performance as ratios: our parts compared with a peer or a limit, both measured in the same run on the same machine.

`toolwise bench NAME` runs one of `BENCHMARKS`; README.md says what each figure means.
"""

from collections.abc import Callable, Sequence

from benchmarks import gpu, learning, sandbox, search, view
from benchmarks.figures import BenchConfig, Figure, Said, table

BENCHMARKS: dict[str, Callable[[int, Callable[[int, str], None]], Sequence[Figure | Said]]] = {
    "gpu": gpu.measure,
    "learner": learning.measure,
    "sandbox": sandbox.measure,
    "search": search.measure,
    "view": view.measure,
}
"""Functions of the number of rounds and of `advance(rounds_done, text)`, by name."""


def require(name: str) -> None:
    """Raise UsageError if this machine cannot run a benchmark."""
    if name == "gpu":
        gpu.require()


__all__ = ["BENCHMARKS", "BenchConfig", "Figure", "Said", "require", "table"]
