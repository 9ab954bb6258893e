"""Images of a row: bytes, files, data URLs or base64, as the forms of datasets have them."""

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
    """What a row names as an image, paths relative to `folder`. Raises RowError for what is none; only its header is read."""
    found = _found(value, folder)
    try:
        with Image.open(io.BytesIO(found) if isinstance(found, bytes) else found):
            return found
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        told = "in the row" if isinstance(found, bytes) else str(found)
        raise RowError(f"the image {told} cannot be opened ({error})") from None


def load(found: Picture) -> Image.Image:
    """The whole image, in RGB. Raises RowError where it is cut off or gone."""
    try:
        with Image.open(io.BytesIO(found) if isinstance(found, bytes) else found) as opened:
            return opened.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise RowError(f"the image cannot be opened ({error})") from None


def from_base64(text: str) -> bytes:
    """The bytes of an image in base64. Raises RowError."""
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise RowError(f"the image is not base64 ({error})") from None


def _found(value: Any, folder: Path) -> Picture:
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path") or value.get("url")
    if isinstance(value, bytes) and value:
        return value
    if not isinstance(value, str) or not value:
        raise RowError(f"there is no image {value!r}; write bytes, or a path relative to the file")
    if value.startswith("data:"):
        return from_base64(value.partition(",")[2])
    if value.startswith(("http://", "https://")):
        raise RowError(f"the image {value} is elsewhere; write a path or a data URL: no row may need the network")
    path = folder / value.removeprefix("file://")
    if not path.is_file():
        raise RowError(f"there is no image {value!r}; write paths relative to the file")
    return path
