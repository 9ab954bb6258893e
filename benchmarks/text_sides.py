"""The two sides of `benchmarks.text_search`, run as a script so that a process holds one side and nothing else.

`text_sides.py build SIDE CORPUS DIRECTORY` indexes a file of JSON lines; `text_sides.py query SIDE DIRECTORY TOP_K` answers the
JSON list of queries on standard input, the first eleventh of which is not timed. Both print one JSON object.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

SIDES = ("ours", "bm25s", "bm25s-numpy")


def _build_ours(corpus: Path, directory: Path) -> None:
    from envs.search.corpora import read_corpus
    from envs.search.text.index import TextIndex

    TextIndex.build(read_corpus(corpus), directory)


def _build_bm25s(corpus: Path, directory: Path) -> None:
    import bm25s

    with corpus.open(encoding="utf-8") as lines:
        documents = [json.loads(line) for line in lines]
    tokens = bm25s.tokenize([f"{row['title']}\n{row['text']}" for row in documents], stopwords="en", show_progress=False)
    index = bm25s.BM25()
    index.index(tokens, show_progress=False)
    index.save(directory, corpus=documents, show_progress=False)


def _open_ours(directory: Path, top_k: int) -> Callable[[str], Sequence[object]]:
    from envs.search.text.index import TextIndex

    index = TextIndex.open(directory)
    return lambda query: index.find(query, top_k)


def _open_bm25s(directory: Path, top_k: int, backend: str) -> Callable[[str], Sequence[object]]:
    import bm25s

    index = bm25s.BM25.load(directory, mmap=True, load_corpus=True, override_params={"backend": backend}, show_progress=False)

    def find(query: str) -> Sequence[object]:
        tokens = bm25s.tokenize(query, stopwords="en", show_progress=False)
        return index.retrieve(tokens, k=top_k, show_progress=False).documents[0]

    return find


def _open(side: str, directory: Path, top_k: int) -> Callable[[str], Sequence[object]]:
    if side == "ours":
        return _open_ours(directory, top_k)
    if side == "bm25s":
        return _open_bm25s(directory, top_k, "numba")
    sys.modules["numba"] = None  # ty: ignore[invalid-assignment]  # hides numba, which bm25s would import
    return _open_bm25s(directory, top_k, "numpy")


def _resident_mb() -> float:
    """All pages of this process in memory, including those of mapped files."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:])
    return int(fields["Rss"].split()[0]) * 1024 / 1e6


def main(action: str, side: str, *rest: str) -> dict[str, object]:
    """The measurements of a process: `s` of a build, or `ms` of each query and the resident `mb` after all of them."""
    if action == "build":
        corpus, directory = map(Path, rest)
        started = time.perf_counter()
        (_build_ours if side == "ours" else _build_bm25s)(corpus, directory)
        return {"s": time.perf_counter() - started}
    directory, top_k = rest
    queries = json.load(sys.stdin)
    find = _open(side, Path(directory), int(top_k))
    milliseconds, found = [], 0
    for query in queries:
        started = time.perf_counter()
        found += len(find(query))
        milliseconds.append(1e3 * (time.perf_counter() - started))
    if not found:
        raise RuntimeError("no query found anything")
    return {"ms": milliseconds[len(queries) // 11 :], "mb": _resident_mb()}


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
