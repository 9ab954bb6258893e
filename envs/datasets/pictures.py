"""The images of a row: bytes, files, data URLs or base64, depending on the format of the dataset."""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from envs.datasets.types import Picture
from envs.errors import RowError


def picture(value: Any, folder: Path) -> Picture:
    """The image that a row names, its path relative to `folder`. Only its header is read. Raises RowError if it is no image."""
    source = _source(value, folder)
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source):
            return source
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        name = "in the row" if isinstance(source, bytes) else str(source)
        raise RowError(f"the image {name} cannot be opened ({error})") from None


def load(source: Picture) -> Image.Image:
    """The whole image, in RGB. Raises RowError if it is truncated or missing."""
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as opened:
            return opened.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise RowError(f"the image cannot be opened ({error})") from None


def from_base64(text: str) -> bytes:
    """The bytes of an image in base64. Raises RowError if the text is not base64."""
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise RowError(f"the image is not base64 ({error})") from None


def _source(value: Any, folder: Path) -> Picture:
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path") or value.get("url")
    if isinstance(value, bytes) and value:
        return value
    if not isinstance(value, str) or not value:
        raise RowError(f"there is no image {value!r}; write bytes, or a path relative to the file")
    if value.startswith("data:"):
        return from_base64(value.partition(",")[2])
    if value.startswith(("http://", "https://")):
        raise RowError(f"the image {value} is not local; write a path or a data URL: no row may need the network")
    path = folder / value.removeprefix("file://")
    if not path.is_file():
        raise RowError(f"there is no image {value!r}; write paths relative to the file")
    return path
