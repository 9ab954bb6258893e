"""Benchmarks whose evaluation is fixed by name: `tasks=bench:vstar data=FILE`. docs/benchmarks.md has the table of them."""

from evaluation.protocols.benchmark import PREFIX, Benchmark, benchmark, listing, names
from evaluation.protocols.frozen import Examination, chosen, examine, freeze, question_clusters

__all__ = [
    "PREFIX",
    "Benchmark",
    "Examination",
    "benchmark",
    "chosen",
    "examine",
    "freeze",
    "listing",
    "names",
    "question_clusters",
]
