"""Images of a rollout: each encoded once, named by its content."""

from __future__ import annotations

import hashlib
import io
import math
import threading
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from cachetools import LRUCache
from PIL import Image

from envs.pictures import fitted, rgb

# Level 3 is as fast as level 1 and writes smaller files; the level is fixed because the name of an image is the digest of its file.
_PNG_LEVEL = 3


@dataclass(frozen=True, slots=True)
class EncodedImage:
    """One image: `pixels` is uint8 of shape (height, width, 3), `png` the same losslessly, `sha256` the digest of `png` in hex."""

    sha256: str
    png: bytes
    pixels: np.ndarray

    @property
    def image(self) -> Image.Image:
        """The pixels as a PIL image in mode RGB."""
        return Image.fromarray(self.pixels)


class ImageEncoder:
    """Encodes pixels as PNG, equal pixels to equal bytes, and remembers recent ones: a group of episodes opens on the same image.

    `cache_bytes` bounds the memory (pixels and PNG together) that is kept for reuse. Safe to call from several threads.
    """

    def __init__(self, cache_bytes: int = 64 << 20) -> None:
        self._lock = threading.Lock()
        self._cache: LRUCache[tuple[bytes, tuple[int, ...]], EncodedImage] = LRUCache(
            cache_bytes, getsizeof=lambda image: image.pixels.nbytes + len(image.png)
        )

    def encode(self, image: EncodedImage | Image.Image | np.ndarray) -> EncodedImage:
        """The encoded form of an image. Raises ValueError for an array that is empty or not uint8 of shape (height, width, 3)."""
        if isinstance(image, EncodedImage):
            return image
        if isinstance(image, Image.Image):
            image = np.asarray(rgb(image))
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
            raise ValueError(f"an image must be uint8 of shape (height, width, 3), not {image.dtype} of shape {image.shape}")
        pixels = np.ascontiguousarray(image)
        key = (hashlib.sha256(pixels.data).digest(), pixels.shape)
        with self._lock:
            known = self._cache.get(key)
        if known is not None:
            return known
        encoded = encoded_image(pixels)
        with self._lock, suppress(ValueError):  # larger than the whole cache
            self._cache[key] = encoded
        return encoded


def encoded_image(pixels: np.ndarray) -> EncodedImage:
    """The encoded form of pixels, uint8 of shape (height, width, 3)."""
    # A copy of our own: the environment may draw on its array again.
    pixels = pixels.copy()
    pixels.flags.writeable = False
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=_PNG_LEVEL)
    png = buffer.getvalue()
    return EncodedImage(sha256=hashlib.sha256(png).hexdigest(), png=png, pixels=pixels)


def limited(pixels: np.ndarray, max_pixels: int) -> np.ndarray:
    """The pixels, scaled down to at most `max_pixels` if there are more; their shape is (height, width, 3)."""
    if pixels.ndim != 3 or pixels.shape[0] * pixels.shape[1] <= max_pixels:
        return pixels
    return np.asarray(fitted(Image.fromarray(pixels), max_pixels))


@dataclass(frozen=True, slots=True)
class Frame:
    """A size in pixels to which an image is scaled, and that of the white canvas at whose top left it then lies.

    The two differ if the image has an extreme shape.
    """

    height: int
    width: int
    canvas_height: int
    canvas_width: int

    @classmethod
    def of(cls, height: int, width: int, max_pixels: float, max_ratio: float) -> Frame:
        """The frame of an image of this size in at most `max_pixels`, on a canvas of sides in a ratio of at most `max_ratio`."""
        scale = min(1.0, (max_pixels / (height * width)) ** 0.5)
        height, width = max(1, int(height * scale)), max(1, int(width * scale))
        shortest = math.ceil(max(height, width) / max_ratio)
        return cls(height, width, max(height, shortest), max(width, shortest))

    def show(self, image: EncodedImage) -> EncodedImage:
        """The image in this frame."""
        if (self.canvas_height, self.canvas_width) == image.pixels.shape[:2]:
            return image
        scaled = image.image.resize((self.width, self.height), Image.Resampling.LANCZOS, reducing_gap=3.0)
        canvas = Image.new("RGB", (self.canvas_width, self.canvas_height), "white")
        canvas.paste(scaled)
        return encoded_image(np.asarray(canvas))
