"""The titles, sources and thumbnails of an image index of any kind: `pictures.jsonl` and `thumbnails.bin`."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any, Self

import numpy as np
from PIL import Image

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
        with Image.open(io.BytesIO(self._thumbnails[begin : begin + size]), formats=["WEBP"]) as opened:
            return Match(record["title"], record["source"], opened.convert("RGB"))


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
    small = image.convert("RGB")
    small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.BOX)
    file = io.BytesIO()
    small.save(file, "WEBP", quality=90)
    return file.getvalue()
