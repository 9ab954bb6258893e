"""A cache bounded in bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable


class LRUCache[K: Hashable, V]:
    """Keeps what was used last, at most `capacity_bytes` as `size_bytes` counts them. Safe to use from several threads."""

    def __init__(self, capacity_bytes: int, size_bytes: Callable[[V], int]) -> None:
        self._capacity_bytes, self._size_bytes = capacity_bytes, size_bytes
        self._held_bytes = 0
        self._entries: OrderedDict[K, tuple[V, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: K) -> V | None:
        """The value of `key`, or None where it is not held."""
        with self._lock:
            if (entry := self._entries.get(key)) is None:
                return None
            self._entries.move_to_end(key)
            return entry[0]

    def put(self, key: K, value: V) -> V:
        """Hold `value` and return it. A value larger than the capacity is not held."""
        size = self._size_bytes(value)
        if size > self._capacity_bytes:
            return value
        with self._lock:
            if key not in self._entries:
                self._entries[key] = (value, size)
                self._held_bytes += size
            while self._held_bytes > self._capacity_bytes:
                self._held_bytes -= self._entries.popitem(last=False)[1][1]
        return value
