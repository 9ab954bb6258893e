"""Which split an item belongs to, by what it asks: the same question about the same pictures is never in two."""

from __future__ import annotations

import zlib
from collections.abc import Iterable

from envs.pictures import Source

_BLOCK = 1 << 20


def checksum(text: str, pictures: Iterable[Source] = ()) -> int:
    """The checksum of a question's text and of the contents of its pictures. Raises OSError if a file cannot be read."""
    value = zlib.crc32(text.encode(errors="surrogatepass"))
    for picture in pictures:
        if isinstance(picture, bytes):
            value = zlib.crc32(picture, value)
            continue
        with picture.open("rb") as file:
            while block := file.read(_BLOCK):
                value = zlib.crc32(block, value)
    return value


def split_of(value: int) -> str:
    """The split of a checksum: a tenth is "validation", a tenth "test", the rest "train"."""
    slot = value % 10
    return "validation" if slot == 0 else "test" if slot == 1 else "train"
