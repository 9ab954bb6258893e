"""Answers that any number of processes share on disk. The only module that imports diskcache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diskcache


class DiskCache:
    """JSON by key in a directory: a file from elsewhere can give wrong answers, but run nothing."""

    def __init__(self, directory: Path) -> None:
        self._cache = diskcache.Cache(str(directory), disk=diskcache.JSONDisk)

    def get(self, key: str) -> Any | None:
        """None where there is nothing yet."""
        return self._cache.get(key)

    def put(self, key: str, answer: Any) -> None:
        """Keep an answer."""
        self._cache.set(key, answer)
