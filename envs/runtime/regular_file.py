"""Opens files that others write without waiting for what is none."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO


def open_file(path: Path) -> BinaryIO:
    """A file for reading. Raises OSError, also for what is no regular file: at a FIFO or a device one would wait for ever."""
    opened = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    if not stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
        opened.close()
        raise OSError(f"{path} is no regular file")
    return opened


def read_text(path: Path) -> str:
    """The text of a file. Raises OSError as `open_file` does, and ValueError for what is no UTF-8."""
    with open_file(path) as file:
        return file.read().decode("utf-8")
