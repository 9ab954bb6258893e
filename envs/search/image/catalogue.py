"""What every image index has: how it is opened and searched, and its titles, sources and thumbnails on disk."""

from __future__ import annotations

import asyncio
import io
import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from PIL import Image

from envs.errors import UsageError
from envs.pictures import decode, rgb
from envs.search.types import Match, Picture

THUMBNAIL_SIDE = 112
FILES = ("pictures.jsonl", "thumbnails.bin")


class Catalogue:
    """The catalogue of an index. Titles are in memory, thumbnails are mapped from disk. The directory may be deleted meanwhile."""

    def __init__(self, directory: Path) -> None:
        self.records = [json.loads(line) for line in (directory / FILES[0]).read_text(encoding="utf-8").splitlines()]
        self._thumbnails = np.memmap(directory / FILES[1], np.uint8, "r")

    def __len__(self) -> int:
        return len(self.records)

    def match(self, number: int) -> Match:
        """The picture of that number, as a search result."""
        record = self.records[number]
        begin, size = record["thumbnail"]
        thumbnail = decode(self._thumbnails[begin : begin + size].tobytes(), ["WEBP"])
        return Match(record["title"], record["source"], thumbnail)


class StoredIndex(ABC):
    """An image index in a directory with `FILES` and the files named in `files`. `search` runs outside the event loop's thread."""

    files: ClassVar[tuple[str, ...]]

    def __init__(self, directory: Path) -> None:
        self._catalogue = Catalogue(directory)

    @classmethod
    def open(cls, directory: Path) -> Self:
        """The index of a directory. Raises UsageError if a file, or a model that it needs, is missing or cannot be read."""
        if missing := [name for name in (*FILES, *cls.files) if not (directory / name).is_file()]:
            raise UsageError(
                f"{directory} holds no image index ({missing[0]} is missing): "
                f"build one with `toolwise index gallery=DIR out={directory}`"
            )
        try:
            return cls(directory)
        except (ValueError, KeyError, OSError, RuntimeError) as error:
            raise UsageError(
                f"{directory}: the image index cannot be read ({' '.join(str(error).split())}): build it again"
            ) from None

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self._catalogue)

    async def search(self, image: Image.Image, top_k: int) -> list[Match]:
        """See `ImageSearch`."""
        return await asyncio.to_thread(self.find, image, top_k)

    @abstractmethod
    def find(self, image: Image.Image, top_k: int) -> list[Match]:
        """As `search`, but synchronous."""


class CatalogueWriter:
    """Writes a catalogue, picture by picture."""

    def __init__(self, directory: Path) -> None:
        self._records, self._thumbnails = ((directory / name).open("wb") for name in FILES)
        self.count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._records.close()
        self._thumbnails.close()

    def add(self, picture: Picture, **more: Any) -> None:
        """Add the next picture, with further fields of its record."""
        begin = self._thumbnails.tell()
        self._thumbnails.write(_encoded(picture.image))
        record = {"title": picture.title, "source": picture.source, "thumbnail": [begin, self._thumbnails.tell() - begin], **more}
        self._records.write(json.dumps(record).encode() + b"\n")
        self.count += 1


def _encoded(image: Image.Image) -> bytes:
    small = rgb(image)
    small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.BOX)
    file = io.BytesIO()
    small.save(file, "WEBP", quality=90)
    return file.getvalue()
