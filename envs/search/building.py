"""`toolwise index`: an index from a corpus or a gallery."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from envs.search.corpora import read_corpus, read_gallery
from envs.search.image_index import ImageIndex
from envs.search.text_index import TextIndex
from envs.types import UsageError


@dataclass
class IndexConfig:
    """One of `corpus` and `gallery`."""

    out: str = "runs/index"
    """The directory to write, which must not exist."""

    corpus: str | None = None
    """Texts for the text search: .jsonl or .parquet with `text` (or `contents`), `title`, `source`."""

    gallery: str | None = None
    """Pictures for the image search: a directory, or .parquet with `image` and `title`."""


def build_index(config: IndexConfig, on_progress: Callable[[int], None]) -> tuple[str, int]:
    """Builds it; returns the environment option that takes it, and its number of entries. Raises UsageError."""
    if (config.corpus is None) == (config.gallery is None):
        raise UsageError("write one of corpus=FILE (for the text search) and gallery=DIR (for the image search)")
    out = Path(config.out)
    if config.corpus is not None:
        return "text_search", len(TextIndex.build(read_corpus(Path(config.corpus)), out, on_progress))
    assert config.gallery is not None
    return "image_search", len(ImageIndex.build(read_gallery(Path(config.gallery)), out, on_progress))
