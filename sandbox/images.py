"""Images across the wall: raw pixels in a sealed memory file on the way in, PNG decoded with caps on the way out."""

from __future__ import annotations

import fcntl
import io
import os
import struct
from collections.abc import Sequence

from PIL import Image

from sandbox import wire

_MODES = ("L", "RGB", "RGBA")
_SIZE, _SIZE_AT = struct.Struct(">II"), 16  # in a PNG's first chunk
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
    if len(png) < _SIZE_AT + _SIZE.size:
        raise ValueError("it is not a readable PNG")
    width, height = _SIZE.unpack_from(png, _SIZE_AT)
    if max(width, height) > side:
        raise ValueError(f"it is {width} x {height} pixels, the limit for each side is {side}")
    try:
        with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
            if image.size != (width, height):  # a second header: then neither is to be believed
                raise ValueError("it is not a readable PNG")
            image.load()
            plain = image.copy() if image.mode in _MODES else image.convert("RGBA" if image.has_transparency_data else "RGB")
            plain.info.clear()  # text, profiles and the like: not pixels, so not ours to carry
            return plain
    except Exception as error:  # whatever a parser raises on hostile bytes is the bytes' fault
        raise ValueError("it is not a readable PNG") from error
