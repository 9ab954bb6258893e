"""Images into and out of the jail: bare pixels both ways, in a sealed memory file on the way in and in a frame on the way out."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Sequence

from PIL import Image

from sandbox.jailed import wire
from sandbox.types import Limits

_SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL


def pack(images: Sequence[Image.Image]) -> tuple[bytes, int]:
    """The IMAGES payload and the descriptor of a read-only memory file with the pixels, which the caller closes.

    Modes other than `wire.MODES` become RGBA if they have transparency, else RGB.
    """
    fd = os.memfd_create("images", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
    payload = bytearray()
    for image in images:
        plain = image if image.mode in wire.MODES else image.convert("RGBA" if image.has_transparency_data else "RGB")
        payload += wire.PIXELS.pack(plain.mode.encode(), *plain.size)
        pixels = memoryview(plain.tobytes())
        while pixels:
            pixels = pixels[os.write(fd, pixels) :]
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    return bytes(payload), fd


def most_bytes(limits: Limits) -> int:
    """The size of the largest IMAGE payload that `limits` allow."""
    return wire.PIXELS.size + limits.image_pixels * max(map(len, wire.MODES))


def measure(payload: bytes) -> tuple[str, int, int] | None:
    """Mode, width and height in pixels of an IMAGE payload; None if it is not one."""
    if len(payload) < wire.PIXELS.size:
        return None
    name, width, height = wire.PIXELS.unpack_from(payload)
    mode = name.rstrip(b"\0").decode(errors="replace")
    if mode not in wire.MODES or not width * height or width * height * len(mode) != len(payload) - wire.PIXELS.size:
        return None
    return mode, width, height


def unpack(payload: bytes) -> Image.Image:
    """The image of a payload that `measure` has accepted."""
    measured = measure(payload)
    assert measured is not None
    mode, width, height = measured
    return Image.frombytes(mode, (width, height), memoryview(payload)[wire.PIXELS.size :])
