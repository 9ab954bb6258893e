"""Directories that are there whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Generator
from pathlib import Path

from envs.types import UsageError


@contextlib.contextmanager
def built_beside(directory: Path) -> Generator[Path]:
    """A new directory to fill, which becomes `directory` at the end; after an error nothing is left of it.

    Raises UsageError where `directory` exists and is not empty.
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise UsageError(f"{directory} exists already: write another out=")
    directory.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(dir=directory.parent, prefix=f".{directory.name}."))
    try:
        yield unfinished
        unfinished.chmod(0o755)
        os.replace(unfinished, directory)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
