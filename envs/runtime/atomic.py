"""Files and directories that appear whole or not at all: readers and crashes see the old state or the new one, never half."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from errno import EDQUOT, ENOSPC
from pathlib import Path

from envs.errors import UsageError

FULL = (ENOSPC, EDQUOT)
"""The errors of a full disk, or of one on which the user may have no more."""
_BLOCK = 1 << 16


def write_file(path: Path, content: bytes | str) -> None:
    """Write `content` to `path` and replace the file that exists. Missing parent folders are made."""
    with replaced_file(path) as unfinished:
        unfinished.write_bytes(content.encode() if isinstance(content, str) else content)


def append(path: Path, content: bytes) -> None:
    """Add `content` to the end of a file, all of it or nothing: after an error, such as a full disk, the file is as it was."""
    with naming(path), path.open("ab", buffering=0) as file:
        begin = file.seek(0, os.SEEK_END)
        try:
            left = memoryview(content)
            while left:
                left = left[file.write(left) :]
        except BaseException:
            file.truncate(begin)
            raise


@contextmanager
def naming(path: Path) -> Generator[None]:
    """The error of a full disk names `path`: of what is written to an open file Python names none."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL and error.filename is None:
            error.filename = str(path)
        raise


def cut_last_line(path: Path) -> None:
    """Remove what stands behind the last line end of a file to which lines are appended: a line that a kill has cut.

    A missing file is left alone. The file is read from its end, however long it is.
    """
    if not path.exists():
        return
    with path.open("r+b") as file:
        end = size = file.seek(0, os.SEEK_END)
        while end:
            begin = max(0, end - _BLOCK)
            file.seek(begin)
            found = file.read(end - begin).rfind(b"\n")
            if found >= 0:
                end = begin + found + 1
                break
            end = begin
        if end < size:
            file.truncate(end)


@contextmanager
def replaced_file(path: Path) -> Generator[Path]:
    """A path to write to, which takes the place of `path` at the end; after an error nothing has changed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(descriptor)
    try:
        with naming(path):
            yield Path(temporary)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


@contextmanager
def new_directory(directory: Path) -> Generator[Path]:
    """A directory to fill, which becomes `directory` at the end; after an error nothing is left of it.

    Raises UsageError if `directory` exists and is not empty.
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise UsageError(f"{directory} exists already: write another out=")
    with _unfinished(directory) as unfinished:
        yield unfinished
        os.replace(unfinished, directory)


@contextmanager
def _unfinished(directory: Path) -> Generator[Path]:
    directory.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(dir=directory.parent, prefix=f".{directory.name}."))
    unfinished.chmod(0o755)
    try:
        yield unfinished
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
