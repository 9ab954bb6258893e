"""The embedded text search compared with bm25s: the same documents, queries and number of results, timed from query to results.

Each side runs in a separate process (`benchmarks.text_sides`), in turns. bm25s runs with its own tokenizer and stop words and its
files memory-mapped, in the form that is best for the figure: compiled by numba for speed, without numba for memory.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import numpy as np

from benchmarks.figures import Figure
from benchmarks.text_sides import SIDES
from envs.errors import InfrastructureError
from envs.search.types import Document

DOCUMENTS = 1_000_000
_QUERIES, _TOP_K = 220, 5  # the first 20 are not timed
_VOCABULARY = 200_000
_ZIPF_EXPONENT, _ZIPF_SHIFT = 1.07, 2.7  # Mandelbrot's form of Zipf's law
_FREQUENT = 100  # words that play the role of stop words
_STOP_WORDS = ("the", "of", "and", "to", "in", "a", "is", "was", "it", "for", "on", "be", "with", "as", "that", "by", "at", "this")
_BATCH = 10_000
_SYLLABLES = [onset + vowel for onset in "bdfgklmnprstvz" for vowel in "aeiou"]


def measure(rounds: int, advance: Callable[[int, str], None], documents: int = DOCUMENTS) -> list[Figure]:
    """Four figures over generated documents. Both sides build once; then each round runs the same new queries on both."""
    build, p50, p99, memory = figures = [
        Figure("text_build", "s", "bm25s"),
        Figure("text_query_p50", "ms", "bm25s with numba, memory-mapped"),
        Figure("text_query_p99", "ms", "bm25s with numba, memory-mapped"),
        Figure("text_memory", "MB", "bm25s without numba, memory-mapped"),
    ]
    with tempfile.TemporaryDirectory(prefix="toolwise-bench-") as scratch:
        corpus, ours, theirs = (Path(scratch, name) for name in ("corpus.jsonl", "ours", "bm25s"))
        advance(0, f"writing {documents:,} documents, then indexing them on both sides")
        with corpus.open("w", encoding="utf-8") as file:
            for document in generate(documents):
                file.write(json.dumps({"title": document.title, "text": document.text, "source": document.source}) + "\n")
        seconds = [_run("build", side, corpus, directory)["s"] for side, directory in zip(SIDES, (ours, theirs), strict=False)]
        build.add(*seconds)
        corpus.unlink()
        for number in range(rounds):
            batch = json.dumps(queries(_QUERIES, number))
            measured = [
                _run("query", side, directory, _TOP_K, stdin=batch)
                for side, directory in zip(SIDES, (ours, theirs, theirs), strict=True)
            ]
            p50.add(median(measured[0]["ms"]), median(measured[1]["ms"]))
            p99.add(quantiles(measured[0]["ms"], n=100)[98], quantiles(measured[1]["ms"], n=100)[98])
            memory.add(measured[0]["mb"], measured[2]["mb"])
            advance(number + 1, f"a query {p50.ours[-1]:.2f} ms, bm25s {p50.reference[-1]:.2f} ms")
    return figures


def generate(documents: int, seed: int = 0) -> Iterator[Document]:
    """Passages of log-normal length (median 60 words) under titles of 1 to 5 words, all drawn from a Zipfian vocabulary."""
    words, cumulative = _vocabulary()
    random = np.random.default_rng(seed)
    for first in range(0, documents, _BATCH):
        count = min(_BATCH, documents - first)
        lengths = np.clip(random.lognormal(np.log(60), 0.5, count), 10, 115).astype(int)
        titles = random.integers(1, 6, count)
        drawn = words[np.searchsorted(cumulative, random.random(int((lengths + titles).sum())))].tolist()
        start = 0
        for number, (length, title) in enumerate(zip(lengths.tolist(), titles.tolist(), strict=True), first):
            middle, end = start + title, start + title + length
            yield Document(" ".join(drawn[start:middle]), " ".join(drawn[middle:end]), str(number))
            start = end


def queries(count: int, seed: int = 0) -> list[str]:
    """Queries of 2 to 6 words, drawn as the documents' are but without the `_FREQUENT` first."""
    words, cumulative = _vocabulary()
    random = np.random.default_rng((seed, 1))
    least = cumulative[_FREQUENT - 1]
    return [
        " ".join(words[np.searchsorted(cumulative, random.uniform(least, 1, length))].tolist())
        for length in random.integers(2, 7, count)
    ]


def _vocabulary() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """The words, most frequent first, which are stop words of English; and their cumulative probabilities."""
    random = np.random.default_rng(0)
    made = dict.fromkeys(_STOP_WORDS)
    while len(made) < _VOCABULARY:
        made["".join(random.choice(_SYLLABLES, int(random.integers(2, 5))))] = None
    probability = 1 / (np.arange(_VOCABULARY) + _ZIPF_SHIFT) ** _ZIPF_EXPONENT
    return np.array(list(made), dtype=object), np.minimum(np.cumsum(probability / probability.sum()), 1)


def _run(action: str, side: str, *rest: object, stdin: str = "") -> dict[str, Any]:
    root = Path(__file__).parents[1]
    # -P: the process must not import `sandbox` from this folder
    command = [sys.executable, "-P", str(Path(__file__).with_name("text_sides.py")), action, side, *map(str, rest)]
    result = subprocess.run(command, input=stdin, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(root)})
    if result.returncode:
        raise InfrastructureError(f"{side} could not {action}: {' '.join(result.stderr.split()[-40:])}")
    return json.loads(result.stdout)
