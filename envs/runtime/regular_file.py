"""Opens files that others write without waiting for what is none."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO


def open_file(path: Path) -> BinaryIO:
    """A file for reading. Raises OSError, also for what is no regular file: at a FIFO or a device one would wait for ever."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f"{path} is no regular file")
    return os.fdopen(descriptor, "rb")


def read_text(path: Path) -> str:
    """The text of a file. Raises OSError as `open_file` does, and ValueError for what is no UTF-8."""
    with open_file(path) as file:
        return file.read().decode("utf-8")
