"""Image search over HTTP, in a simple form that an adapter can put before any service.

POST `{"image": PNG in base64, "topk": N}`; the answer is `{"results": [{"title": …, "link": …, "thumbnail": base64 or URL}]}`,
link and thumbnail may be missing.
"""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import Mapping
from typing import Any

from PIL import Image

from envs.errors import PictureError, SearchUnavailable
from envs.pictures import decode, from_base64, rgb
from envs.search.http import HttpClient, Request
from envs.search.types import Match

_SENT_SIDE = 1024  # no service looks closer, and every pixel is sent
_MOST_PIXELS = 1 << 22
_THUMBNAIL_SIDE = 224


class ImageServer:
    """An image search service at `url`."""

    def __init__(self, url: str, client: HttpClient) -> None:
        self._url, self._client = url, client

    async def search(self, image: Image.Image, top_k: int) -> list[Match]:
        """See `ImageSearch`. A thumbnail that cannot be loaded is left out."""
        picture = await asyncio.to_thread(_encoded, image)
        body = await self._client.json(Request("POST", self._url, json={"image": picture, "topk": top_k}))
        items = body.get("results") if isinstance(body, Mapping) else None
        if not isinstance(items, list) or not all(isinstance(item, Mapping) for item in items):
            raise SearchUnavailable("the image search answers in another form")
        return list(await asyncio.gather(*(self._match(item) for item in items[:top_k])))

    async def _match(self, item: Mapping[str, Any]) -> Match:
        title, link = str(item.get("title") or ""), str(item.get("link") or item.get("source") or "")
        return Match(title, link, await self._thumbnail(item.get("thumbnail")))

    async def _thumbnail(self, given: Any) -> Image.Image | None:
        if not isinstance(given, str) or not given:
            return None
        try:
            is_link = given.startswith(("http://", "https://"))
            content = await self._client.content(given) if is_link else from_base64(given)
            return await asyncio.to_thread(_decoded, content)
        except (SearchUnavailable, PictureError):
            return None


def _encoded(image: Image.Image) -> str:
    small = rgb(image)
    small.thumbnail((_SENT_SIDE, _SENT_SIDE))
    file = io.BytesIO()
    small.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def _decoded(content: bytes) -> Image.Image:
    small = decode(content, ["PNG", "JPEG", "WEBP"], _MOST_PIXELS)
    small.thumbnail((_THUMBNAIL_SIDE, _THUMBNAIL_SIDE))
    return small
