"""`toolwise index`: builds an index from a corpus or a gallery."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from envs.errors import UsageError
from envs.search.corpora import count_rows, read_corpus, read_gallery
from envs.search.image.embedding_index import EmbeddingIndex
from envs.search.image.index import ImageIndex
from envs.search.text.index import TextIndex


@dataclass
class IndexConfig:
    """The settings of `toolwise index`, with exactly one of `corpus` and `gallery`."""

    out: str = "runs/index"
    """The directory to write, which must not exist."""

    corpus: str | None = None
    """Texts for the text search: .jsonl or .parquet with `text` (or `contents`), `title`, `source`."""

    gallery: str | None = None
    """Pictures for the image search: a directory with its sub-folders, or .parquet or .jsonl with `image` and `title`."""

    model: str | None = None
    """The directory of a CLIP or SigLIP, to find the gallery's pictures by meaning; null finds modified copies, without weights."""


def size_of(config: IndexConfig) -> int:
    """The number of texts or pictures to be read. Raises UsageError if they cannot be read."""
    return count_rows(_source(config))


def build_index(config: IndexConfig, on_progress: Callable[[int], None]) -> tuple[str, int]:
    """Builds the index; returns the environment option that takes it, and its number of entries.

    Raises UsageError if the settings are wrong, the input cannot be read, or `config.out` exists.
    """
    source, out = _source(config), Path(config.out)
    if config.corpus is not None:
        return "text_search", len(TextIndex.build(read_corpus(source), out, on_progress))
    if config.model is not None:
        return "image_search", len(EmbeddingIndex.build(read_gallery(source), Path(config.model), out, on_progress))
    return "image_search", len(ImageIndex.build(read_gallery(source), out, on_progress))


def _source(config: IndexConfig) -> Path:
    given = [path for path in (config.corpus, config.gallery) if path is not None]
    if len(given) != 1:
        raise UsageError("write one of corpus=FILE (for the text search) and gallery=DIR (for the image search)")
    return Path(given[0])
