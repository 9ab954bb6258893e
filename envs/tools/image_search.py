"""The image search tool: `{"name": "image_search"}` searches the question's image.

`"arguments": {"image": 2}` searches the second image of the episode, counted as the model saw them: first the question's, then
those that tools returned, a crop that the model made among them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from envs.errors import SearchUnavailable
from envs.search.types import ImageSearch, Match
from envs.types import ToolResult, ToolStatus

_MIN_SIDE = 8


class ImageSearchTool:
    """Numbered titles with source, the best first, and their thumbnails as images. `images` grows as the episode shows more."""

    def __init__(self, backend: ImageSearch, top_k: int, images: Sequence[Image.Image]) -> None:
        self._backend, self._top_k, self._images = backend, top_k, images

    async def call(self, arguments: Mapping[str, Any]) -> ToolResult:
        number = arguments.get("image", 1)
        if isinstance(number, str):  # as the image is called in code
            number = number.removeprefix("image_")
            number = int(number) if number.isdecimal() and len(number) < 10 else number
        if not self._images:
            return ToolResult("There is no image to search for.", status=ToolStatus.ERROR)
        if not isinstance(number, int) or isinstance(number, bool) or not 1 <= number <= len(self._images):
            remedy = f'write {{"name": "image_search", "arguments": {{"image": N}}}} with N from 1 to {len(self._images)}'
            return ToolResult(f"There is no such image: {remedy}", status=ToolStatus.ERROR)
        image = self._images[number - 1]
        if min(image.size) < _MIN_SIDE:
            return ToolResult(f"The image is too small: each side needs {_MIN_SIDE} pixels.", status=ToolStatus.ERROR)
        try:
            matches = await self._backend.search(image, self._top_k)
        except SearchUnavailable as error:
            return ToolResult(f"The image search is not available: {error}", status=ToolStatus.UNAVAILABLE)
        return ToolResult(
            numbered(matches) or "Nothing was found.", tuple(match.thumbnail for match in matches if match.thumbnail is not None)
        )

    async def close(self) -> None:
        """Nothing is held: the backend serves all episodes."""


def numbered(matches: Sequence[Match]) -> str:
    """What the model is shown of matches, besides their thumbnails."""
    return "\n".join(
        f"{number}. {match.title}{f' ({match.source})' if match.source else ''}" for number, match in enumerate(matches, 1)
    )
