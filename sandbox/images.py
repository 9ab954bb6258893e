"""Images across the wall: raw pixels in a sealed memory file on the way in, PNG decoded with caps on the way out."""

from __future__ import annotations

import fcntl
import io
import os
from collections.abc import Sequence

from PIL import Image

from sandbox import wire

_MODES = ("L", "RGB", "RGBA")
_SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL


def pack(images: Sequence[Image.Image]) -> tuple[bytes, int]:
    """The IMAGES payload and the descriptor of a read-only memory file with the pixels, which the caller closes.

    Modes other than L, RGB and RGBA become RGBA when they have transparency, else RGB.
    """
    fd = os.memfd_create("images", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
    payload = bytearray()
    for image in images:
        plain = image if image.mode in _MODES else image.convert("RGBA" if image.has_transparency_data else "RGB")
        payload += wire.PIXELS.pack(plain.mode.encode(), *plain.size)
        pixels = memoryview(plain.tobytes())
        while pixels:
            pixels = pixels[os.write(fd, pixels) :]
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    return bytes(payload), fd


def decode(png: bytes, side: int) -> Image.Image:
    """Decodes bytes that the jail claims to be a PNG. Raises ValueError, with a reason fit for the code's author.

    The size is read from the header and checked before a pixel is decoded: a small file can decode to gigapixels.
    """
    try:
        with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
            width, height = image.size
            if max(width, height) > side:
                raise ValueError(f"it is {width} x {height} pixels, the limit for each side is {side}")
            image.load()
            has_alpha = image.has_transparency_data
            return image.copy() if image.mode in _MODES else image.convert("RGBA" if has_alpha else "RGB")
    except ValueError:
        raise
    except Exception as error:  # whatever a parser raises on hostile bytes is the bytes' fault
        raise ValueError("it is not a readable PNG") from error
