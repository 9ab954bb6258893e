"""Opens every picture of the project, so that policies, tools and searches see what a viewer shows.

The result is in RGB: turned as EXIF says, transparency over white, 16 bits and floats scaled to 8, the first frame of an animation.
"""

from __future__ import annotations

import ast
import base64
import binascii
import io
import re
import reprlib
import threading
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote, unquote_to_bytes

import numpy as np
from PIL import Image, ImageCms, ImageFile, ImageOps

from envs.errors import PictureError

Source = bytes | Path
"""An encoded picture, or the file that holds one."""

MOST_PIXELS = 178_956_970
"""A picture of more pixels is refused; Pillow refuses it too."""

# The header is checked against MOST_PIXELS, so Pillow's own warning about half as many says nothing more.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

_TAIL = 4096  # bytes at the end of a file in which its end mark must stand; cameras append a little
_VERIFIED = 1 << 20  # bytes of a PNG whose checksums are computed
_ORIENTATION = 0x0112
_CONTENT = (
    *("bytes", "image", "picture", "image_url", "input_image", "path", "image_path", "url", "source", "data", "base64"),
    *("b64_json", "image_bytes", "image_base64", "file_name", "filename", "file", "img"),
)
_REMOTE = re.compile(r"(https?|s3|gs|oss|hf|ftp|az|cos|tos)://")
_MAGIC = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*", b"\0\0\0", b"P5", b"P6", b"\0\0\1\0", b"qoif")
_NOT_BASE64 = re.compile(r"[^A-Za-z0-9+/=]")


def named(value: Any, folder: Path) -> Source:
    """The picture that a value names: encoded bytes, a path relative to `folder`, a file:// or a data URL, base64 with or without
    prefix, or a mapping that holds one of them. It is not opened. Raises PictureError if the value names none.
    """
    for _ in range(4):
        if not isinstance(value, Mapping):
            break
        value = next((value[name] for name in _CONTENT if value.get(name) is not None and value.get(name) != ""), None)
    if isinstance(value, bytes | bytearray | memoryview) and len(value):
        return _encoded(bytes(value))
    if isinstance(value, Sequence) and len(value) > 8 and all(isinstance(byte, int) and 0 <= byte < 256 for byte in value):
        return bytes(value)  # bytes that went through JSON
    if isinstance(value, Path):
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        raise PictureError(f"there is no image {reprlib.repr(value)}; write bytes, base64, or a path relative to the file")
    return _written(value.strip(), folder)


def from_base64(text: str) -> bytes:
    """The bytes of base64 in the usual or the URL-safe alphabet, with or without padding, white space and a data URL's prefix.

    Raises PictureError if it is anything else.
    """
    if text[:5].lower() == "data:":
        text = text.partition(",")[2]
    text = "".join((unquote(text) if "%" in text else text).replace("\\n", "").split()).translate({45: "+", 95: "/"})
    if stray := _NOT_BASE64.search(text):
        raise PictureError(f"the image is not base64 (it holds {stray.group()!r})")
    try:
        return base64.b64decode(text.rstrip("=") + "=" * (-len(text.rstrip("=")) % 4))
    except (binascii.Error, ValueError) as error:
        raise PictureError(f"the image is not base64 ({error})") from None


def decode(source: Source, formats: list[str] | None = None, most_pixels: int = MOST_PIXELS) -> Image.Image:
    """The whole picture, in RGB. `formats` are those of Pillow that are tried, None for all.

    Raises PictureError if it is broken, truncated, missing, or has more than `most_pixels`.
    """
    try:
        with _open(source, formats, most_pixels) as opened:
            opened.load()
            return _rgb(opened)  # nobody else has it
    except PictureError:
        raise
    except Exception as error:  # Pillow raises nearly anything for a broken file
        raise PictureError(f"{_name(source)} cannot be opened ({_reason(error, source)})") from None


def require_whole(source: Source, most_pixels: int = MOST_PIXELS) -> None:
    """Raises PictureError unless the picture can be decoded.

    A PNG of up to a megabyte is whole if its checksums are right; a longer one, a JPEG and a WebP if they reach their end. That
    costs no decoding, so that files with many pictures can be checked. All others, and what does not look whole, are decoded.
    """
    try:
        with _open(source, None, most_pixels) as opened:
            if _looks_whole(opened):
                return
    except PictureError:
        raise
    except Exception:
        pass
    decode(source, most_pixels=most_pixels)


def rgb(image: Image.Image) -> Image.Image:
    """An opened picture as a viewer shows it: upright, in RGB, without metadata. Several threads may ask for the same picture."""
    if isinstance(image, ImageFile.ImageFile):
        # Pillow reads the pixels of an opened file when they are needed, and for one thread only.
        with image.__dict__.setdefault("_reading", threading.Lock()):
            return _rgb(image)
    return _rgb(image)


def _rgb(image: Image.Image) -> Image.Image:
    image = _upright(image)
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        shown = Image.fromarray(_eight_bits(image)).convert("RGB")
    elif image.mode in ("CMYK", "LAB"):
        shown = _managed(image)
    elif image.has_transparency_data:
        opaque = {"La": "LA", "RGBa": "RGBA"}.get(image.mode)
        image = (image.convert(opaque) if opaque else image).convert("RGBA")
        shown = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    else:
        shown = image.convert("RGB")  # a copy, even of RGB
    shown.info.clear()
    return shown


def fitted(image: Image.Image, most_pixels: int, most_side: int | None = None) -> Image.Image:
    """The picture, scaled down to at most `most_pixels` and `most_side` pixels a side if it has more; its proportions stay."""
    size = fitted_size(*image.size, most_pixels, most_side)
    return image if size == image.size else image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)


def fitted_size(width: int, height: int, most_pixels: int, most_side: int | None = None) -> tuple[int, int]:
    """The width and height of `fitted` pictures of this size."""
    scale = min(1.0, (most_pixels / (width * height)) ** 0.5, (most_side or max(width, height)) / max(width, height))
    return (width, height) if scale == 1.0 else (max(1, int(width * scale)), max(1, int(height * scale)))


def size_of(source: Source, most_pixels: int = MOST_PIXELS) -> tuple[int, int]:
    """Width and height of a picture, of which only the header is read; it may lie on its side (EXIF). Raises as `decode`."""
    try:
        with _open(source, None, most_pixels) as opened:
            return opened.size
    except PictureError:
        raise
    except Exception as error:  # as in `decode`
        raise PictureError(f"{_name(source)} cannot be opened ({_reason(error, source)})") from None


def looks_encoded(value: Any) -> bool:
    """Whether a value holds the content of a picture: its bytes, a data URL, base64, or a mapping with one of them."""
    if isinstance(value, Mapping):
        return any(looks_encoded(value.get(name)) for name in ("bytes", "image", "data", "base64", "url"))
    if isinstance(value, bytes):
        return value.startswith(_MAGIC)
    if not isinstance(value, str):
        return False
    return value.startswith(("data:image/", "iVBORw0KGgo", "/9j/", "R0lGOD", "UklGR")) and len(value) > 40


def _written(text: str, folder: Path) -> Source:
    head, base64_follows, content = text[:100].partition("base64,")
    if base64_follows and "," not in head:  # a data URL, or what is left of one
        return from_base64(text[len(head) + len(base64_follows) :])
    if text[:5].lower() == "data:":
        return unquote_to_bytes(text.partition(",")[2])
    if _REMOTE.match(text):
        raise PictureError(f"the image {text} is not local; write a path or a data URL: no row may need the network")
    if text.startswith(("b'", 'b"')):  # bytes that went through a table of texts
        try:
            return _encoded(ast.literal_eval(text))
        except (ValueError, SyntaxError):
            raise PictureError(f"the image is {text[:40]!r}…, which is not Python's notation of bytes") from None
    name = unquote(text.removeprefix("file://").removeprefix("localhost")) if text.startswith("file://") else text
    for path in (folder / name, folder / name.replace("\\", "/")):
        try:
            if path.is_file():
                return path
        except (OSError, ValueError):  # too long for a name
            break
    try:
        content = from_base64(text)
    except PictureError:
        content = b""
    if content.startswith(_MAGIC):
        return content
    if len(text) > 1000 or "\n" in text:
        raise PictureError(f"the image {text[:20]!r}… is neither a path nor the base64 of a picture")
    raise PictureError(f"there is no image {text!r}; write paths relative to the file")


def _encoded(content: bytes) -> bytes:
    """Bytes of a picture; some tables hold base64 or a data URL as bytes."""
    if content.startswith(_MAGIC) or not content[:64].isascii():
        return content
    try:
        text = content.decode("ascii").strip()
        decoded = from_base64(text)
    except (UnicodeDecodeError, PictureError):
        return content
    return decoded if decoded.startswith(_MAGIC) else content


def _open(source: Source, formats: list[str] | None, most_pixels: int) -> Image.Image:
    opened = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=formats)
    if opened.width * opened.height > most_pixels:
        opened.close()
        raise PictureError(
            f"{_name(source)} is too large: {opened.width} x {opened.height} pixels; the limit is {most_pixels} in all",
            too_large=True,
        )
    return opened


def _looks_whole(opened: Image.Image) -> bool:
    file: BinaryIO = opened.fp  # ty: ignore[missing-attribute]  ImageFile's
    begin = file.tell()
    size = file.seek(0, io.SEEK_END)
    if opened.format == "PNG" and size <= _VERIFIED:
        opened.verify()
        return True
    mark = {"PNG": b"IEND\xaeB`\x82", "JPEG": b"\xff\xd9"}.get(opened.format or "")
    if mark is not None:  # after the header, which may hold a thumbnail with an end mark of its own
        file.seek(max(begin, size - _TAIL))
        return mark in file.read()
    if opened.format == "WEBP":
        file.seek(4)
        return int.from_bytes(file.read(4), "little") + 8 <= size
    return False


def _upright(image: Image.Image) -> Image.Image:
    try:
        if image.getexif().get(_ORIENTATION, 1) in range(2, 9):
            return ImageOps.exif_transpose(image)
    except Exception:
        pass
    return image


def _eight_bits(image: Image.Image) -> np.ndarray:
    """Levels of grey, uint8 of shape (height, width): 16 bits by their range, 32 bits and floats by the range that they use."""
    levels = np.asarray(image)
    if image.mode.startswith("I;16"):
        return ((levels.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    levels = levels.astype(np.float64)
    known = levels[np.isfinite(levels)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 0.0)
    top = next((top for top in ((1.0,) if image.mode == "F" else ()) + (255.0, 65535.0) if low >= 0 and high <= top), None)
    if top is None:
        levels, top = levels - low, high - low
    return np.rint(np.clip(np.nan_to_num(levels, nan=0.0) / top, 0, 1) * 255).astype(np.uint8)


def _managed(image: Image.Image) -> Image.Image:
    """A picture for print, by its colour profile if it has one that can be read."""
    profile = image.info.get("icc_profile")
    try:
        if profile or image.mode == "LAB":
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile)) if profile else ImageCms.createProfile("LAB")
            shown = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
            if shown is not None:
                return shown
    except ImageCms.PyCMSError:
        pass
    return image.convert("RGB")


def _name(source: Source) -> str:
    return "the image in the row" if isinstance(source, bytes) else f"the image {source}"


def _reason(error: Exception, source: Source) -> str:
    text = re.sub(r"<_io\.\w+ object at \w+>", "", " ".join(str(error).split())) or type(error).__name__
    return (text if isinstance(source, bytes) else text.replace(repr(str(source)), "")).strip()[:200]
