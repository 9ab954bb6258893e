"""The question's pictures: `image_1 … image_n`, and as files by the names under which code looks for them. Runs in the jail.

Most cells use few of the pictures and none of the files, so both are made when they are first used: a variable is a PIL image whose
pixels are copied when they are needed, as those of a picture that `Image.open` returns; a file is empty until it is opened.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from collections.abc import Sequence
from typing import Any

from PIL import Image

_ENDINGS = (".jpg", ".jpeg")  # links to the .png: readers go by the content
_HAND_OVER = frozenset({"os.rename", "os.link", "os.exec", "os.posix_spawn", "os.system", "subprocess.Popen"})
_OVERWRITES = os.O_TRUNC | os.O_EXCL


class _Picture(Image.Image):
    """A picture whose pixels are still in the host's memory file. Used once, it is an ordinary `PIL.Image.Image`."""

    def __init__(self, name: str, mode: str, size: tuple[int, int], pixels: memoryview) -> None:
        super().__init__()
        self._name, self._mode, self._size = name, mode, size
        self._pixels: memoryview | None = pixels
        self.format, self.filename = "PNG", f"{name}.png"

    def load(self) -> Any:
        if (pixels := self._pixels) is not None:  # None: another thread was faster
            try:
                copied = Image.frombytes(self._mode, self._size, pixels).im
            except MemoryError:
                raise MemoryError(
                    f"{self._name} has {self.width} x {self.height} pixels, for which there is no more memory in this session"
                ) from None
            self._im, self._pixels = copied, None
        self.__class__ = Image.Image  # ty: ignore[invalid-assignment]
        return self.load()

    @property
    def im(self) -> Any:
        self.load()
        return self._im

    @im.setter
    def im(self, im: Any) -> None:
        self._im = im

    def __eq__(self, other: object) -> bool:
        self.load()
        return self == other

    __hash__ = None  # as PIL's

    def __reduce_ex__(self, protocol: Any) -> Any:
        self.load()
        return self.__reduce_ex__(protocol)


_Picture.__name__ = _Picture.__qualname__ = "Image"
_Picture.__module__ = Image.__name__


class Pictures:
    """The pictures of one session. `pixels` holds those of all, in the order of `sizes` (mode, width, height)."""

    def __init__(self, pixels: memoryview, sizes: Sequence[tuple[str, int, int]]) -> None:
        self.count = len(sizes)
        self._directory = os.getcwd()
        self._unwritten: dict[int, tuple[str, tuple[str, tuple[int, int], memoryview]]] = {}  # by inode
        self.variables: dict[str, Image.Image] = {}
        start = 0
        for number, (mode, width, height) in enumerate(sizes, 1):
            end = start + width * height * len(mode)  # L, RGB, RGBA: a byte per band
            content = mode, (width, height), pixels[start:end]
            name, start = f"image_{number}", end
            self.variables[name] = _Picture(name, *content)
            with contextlib.suppress(OSError):  # the session's disk has no room even for names
                self._name_file(name, content)
        sys.addaudithook(self._look_out)

    def _name_file(self, name: str, content: tuple[str, tuple[int, int], memoryview]) -> None:
        descriptor = os.open(f"{name}.png", os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        self._unwritten[os.fstat(descriptor).st_ino] = f"{self._directory}/{name}.png", content
        os.close(descriptor)
        for ending in _ENDINGS:
            os.symlink(f"{name}.png", f"{name}{ending}")

    def _look_out(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Writes a picture's file before it is opened, whoever opens it, and all before another program could."""
        if not self._unwritten:
            return
        if event == "open":
            path, _, flags = arguments
            self.before_reading(path, overwritten=bool(flags & _OVERWRITES))
        elif event in _HAND_OVER:
            for inode in tuple(self._unwritten):
                self._write(inode)

    def before_reading(self, path: Any, overwritten: bool = False) -> None:
        """Writes the file at `path`, if it is a picture's and empty. Raises OSError if the session's disk is too small for it."""
        try:
            found = os.stat(path)
        except (OSError, ValueError, TypeError):
            return
        if found.st_ino in self._unwritten and found.st_size == 0:
            if overwritten:
                del self._unwritten[found.st_ino]
            else:
                self._write(found.st_ino)

    def _write(self, inode: int) -> None:
        path, content = self._unwritten.pop(inode)
        try:
            encoded = io.BytesIO()
            Image.frombytes(*content).save(encoded, "PNG", compress_level=1)
            with open(path, "wb") as file:
                file.write(encoded.getbuffer())
        except BaseException as error:
            with contextlib.suppress(OSError):
                os.truncate(path, 0)
            self._unwritten[inode] = path, content
            if isinstance(error, OSError | MemoryError):
                name = os.path.basename(path)
                raise OSError(errno.ENOSPC, f"the session has no room for this file: use the variable {name[:-4]}", name) from None
            raise
