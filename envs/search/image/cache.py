"""DeepEyesV2's released image-search cache as a search: the stored answers of a web service for each sample's image.

The file is one JSON object: sample → `{"tool_returned_web_title": […], "cached_images_path": [path or null, …]}`, with paths
relative to it. Its keys are samples and not images, so the questions' file is needed too: a row's key is its `extra_info.index`,
`id` or `index`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from envs.datasets.formats import question
from envs.datasets.rows import open_rows
from envs.errors import PictureError, RowError, UsageError
from envs.pictures import decode, rgb
from envs.search.image.catalogue import THUMBNAIL_SIDE
from envs.search.types import Match

TITLES, PICTURES = "tool_returned_web_title", "cached_images_path"
SOURCE = "cache"


class CachedImageSearch:
    """A search that knows the questions' own images, pixel for pixel, and finds nothing for any other.

    Raises UsageError if a file is missing or in another form, or if no row of the questions has a key of the cache.
    """

    def __init__(self, path: Path, questions: Path) -> None:
        for file in (path, questions):
            if not file.exists():
                raise UsageError(f"{file}: there is no such file")
        self._folder = path.parent
        try:
            self._results: Mapping[str, Any] = json.loads(path.read_bytes())
        except ValueError as error:
            raise UsageError(f"{path}: not JSON ({error})") from None
        if not isinstance(self._results, dict) or not all(
            isinstance(result, dict) and isinstance(result.get(TITLES), list) for result in self._results.values()
        ):
            raise UsageError(f"{path}: not an image-search cache; each sample needs {TITLES} and {PICTURES}")
        self._keys: dict[str, str] = {}
        for _, row in open_rows(questions, None):
            if isinstance(row, RowError):
                continue
            key = next((key for key in _candidates(row) if key in self._results), None)
            if key is not None:
                self._remember(key, row, questions.parent)
        if not self._keys:
            raise UsageError(f"{questions}: no row with an image has a key of {path}; write extra_info.index, id or index")

    def _remember(self, key: str, row: Mapping[str, Any], folder: Path) -> None:
        try:
            pictures = question(row, folder).pictures
            if pictures:
                self._keys[_digest(decode(pictures[0]))] = key
        except RowError:
            return  # the dataset names such rows

    async def search(self, image: Image.Image, top_k: int) -> list[Match]:
        """See `ImageSearch`."""
        key = self._keys.get(_digest(image))
        if key is None:
            return []
        result = self._results[key]
        pictures = result.get(PICTURES) or []
        pairs = zip(result[TITLES], [*pictures, *[None] * len(result[TITLES])], strict=False)
        return [Match(str(title), SOURCE, self._thumbnail(picture)) for title, picture in list(pairs)[:top_k]]

    def _thumbnail(self, name: str | None) -> Image.Image | None:
        if not name:
            return None
        try:
            picture = decode(self._folder / name)
        except PictureError:
            return None  # the copy of the cache is incomplete: the title can still be shown
        picture.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
        return picture


def _candidates(row: Mapping[str, Any]) -> Iterator[str]:
    extra = row.get("extra_info")
    for record in (extra if isinstance(extra, Mapping) else {}, row):
        for name in ("index", "id"):
            if record.get(name) is not None:
                yield str(record[name])


def _digest(image: Image.Image) -> str:
    shown = rgb(image)
    return hashlib.sha256(repr(shown.size).encode() + shown.tobytes()).hexdigest()
