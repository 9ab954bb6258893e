"""The image search tool: `{"name": "image_search"}` searches the question's image.

`"arguments": {"image": 2}` searches the second image of the episode, counted as the model saw them: first the question's, then
those that tools returned, including crops that the model made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from envs.errors import SearchUnavailable
from envs.search.types import ImageSearch, Match
from envs.tools.tool import Tool, ToolEpisode
from envs.types import ToolResult, ToolStatus

_MIN_SIDE = 8


class ImageSearchTool(Tool):
    """Finds what an image shows: numbered titles with source, the best first, at most `top_k`, and their thumbnails as images."""

    name = "image_search"
    description = "Find what an image shows. Returns numbered titles and their pictures, the best first."
    parameters = {  # noqa: RUF012  nobody changes it
        "type": "object",
        "properties": {
            "image": {
                "type": "integer",
                "description": "Which image of those that you have seen, counted from 1; the question's by default.",
            }
        },
    }
    instructions = (
        'To find what an image shows: <tool_call>{"name": "image_search"}</tool_call> for the question\'s image, or with '
        '"arguments": {"image": N} for the N-th image that you have seen, one that you cropped included.'
    )
    ignores_others = True

    def __init__(self, backend: ImageSearch, top_k: int = 5, timeout_s: float = 30.0) -> None:
        self._backend, self._top_k, self.timeout_s = backend, top_k, timeout_s

    async def call(self, arguments: Mapping[str, Any], episode: ToolEpisode) -> ToolResult:
        images = episode.images
        number = arguments.get("image", 1)
        if isinstance(number, str):  # as the image is called in code
            number = number.removeprefix("image_")
            number = int(number) if number.isdecimal() and len(number) < 10 else number
        if not images:
            return ToolResult("There is no image to search for.", status=ToolStatus.ERROR)
        if not isinstance(number, int) or isinstance(number, bool) or not 1 <= number <= len(images):
            remedy = f'write {{"name": "image_search", "arguments": {{"image": N}}}} with N from 1 to {len(images)}'
            return ToolResult(f"There is no such image: {remedy}", status=ToolStatus.ERROR)
        image = images[number - 1]
        if min(image.size) < _MIN_SIDE:
            return ToolResult(f"The image is too small: each side needs {_MIN_SIDE} pixels.", status=ToolStatus.ERROR)
        try:
            matches = await self._backend.search(image, self._top_k)
        except SearchUnavailable as error:
            return ToolResult(f"The image search is not available: {error}", status=ToolStatus.UNAVAILABLE)
        return ToolResult(
            numbered(matches) or "Nothing was found.", tuple(match.thumbnail for match in matches if match.thumbnail is not None)
        )


def numbered(matches: Sequence[Match]) -> str:
    """The text that the model is shown for matches, besides their thumbnails."""
    return "\n".join(
        f"{number}. {match.title}{f' ({match.source})' if match.source else ''}" for number, match in enumerate(matches, 1)
    )
