"""Types of the two searches: what is indexed, the results, and the protocols that every backend follows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from PIL import Image


@dataclass(frozen=True, slots=True)
class Document:
    """One text of a corpus. `source` is its origin: a link, a file, a field."""

    title: str
    text: str
    source: str = ""


@dataclass(frozen=True, slots=True)
class Passage:
    """One result of a text search, best first in its list. `snippet` is the part of the text that matches the query."""

    title: str
    source: str
    snippet: str


@dataclass(frozen=True, slots=True)
class Picture:
    """One image of a gallery."""

    title: str
    image: Image.Image
    source: str = ""


@dataclass(frozen=True, slots=True)
class Match:
    """One result of an image search, best first in its list. `thumbnail` is None if the backend has no picture to show."""

    title: str
    source: str
    thumbnail: Image.Image | None = None


class TextSearch(Protocol):
    """Finds passages. One object serves all episodes of a process, from any event loop."""

    async def search(self, queries: Sequence[str], top_k: int) -> list[list[Passage]]:
        """At most `top_k` passages for each query, in the order of the queries. Raises SearchUnavailable."""
        ...


class ImageSearch(Protocol):
    """Finds pictures that show what an image shows. One object serves all episodes of a process, from any event loop."""

    async def search(self, image: Image.Image, top_k: int) -> list[Match]:
        """At most `top_k` matches. Raises SearchUnavailable."""
        ...
