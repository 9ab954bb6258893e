"""A cache of answers on disk that any number of processes share. The only module that imports diskcache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diskcache


class DiskCache:
    """JSON by key in a directory: a file from an untrusted source can give wrong answers, but cannot run code."""

    def __init__(self, directory: Path) -> None:
        self._cache = diskcache.Cache(str(directory), disk=diskcache.JSONDisk)

    def get(self, key: str) -> Any | None:
        """The stored answer; None if there is none yet."""
        return self._cache.get(key)

    def put(self, key: str, answer: Any) -> None:
        """Store an answer."""
        self._cache.set(key, answer)
