"""Performance as ratios: our parts compared with a peer or a limit, both measured in the same run on the same machine.

`toolwise bench NAME` runs one of `BENCHMARKS`; README.md says what each figure means.
"""

from collections.abc import Callable

from benchmarks import learning, sandbox, search
from benchmarks.figures import BenchConfig, Figure, table

BENCHMARKS: dict[str, Callable[[int, Callable[[int, str], None]], list[Figure]]] = {
    "learner": learning.measure,
    "sandbox": sandbox.measure,
    "search": search.measure,
}
"""Functions of the number of rounds and of `advance(rounds_done, text)`, by name."""

__all__ = ["BENCHMARKS", "BenchConfig", "Figure", "table"]
