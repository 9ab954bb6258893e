"""Huge pages for memory that is about to be shared by many forks.

A fork copies an entry for each page of anonymous memory, and its end drops each again: 34,000 small ones for a process that has
imported pandas and sympy. Where a child writes, it gets small pages again, of its own: a session takes hardly more memory.
"""

from __future__ import annotations

import ctypes
import re

_HUGE_BYTES = 2 << 20
_MADV_COLLAPSE = 25  # Linux 6.1; older kernels refuse it
_ANONYMOUS = re.compile(r"([0-9a-f]+)-([0-9a-f]+) rw-p \S+ 00:00 0 *(?:\[heap\])?$")

_libc = ctypes.CDLL(None)


def collapse() -> None:
    """Move the private memory of this process into huge pages where they fit.

    See madvise(2). What the kernel does not collapse stays as it is: only the time of a fork depends on it.
    """
    with open("/proc/self/maps") as file:
        regions = [match.groups() for match in map(_ANONYMOUS.match, file) if match]
    for begin, end in ((int(first, 16), int(last, 16)) for first, last in regions):
        for address in range(-(-begin // _HUGE_BYTES) * _HUGE_BYTES, end - _HUGE_BYTES + 1, _HUGE_BYTES):
            _libc.madvise(ctypes.c_void_p(address), ctypes.c_size_t(_HUGE_BYTES), _MADV_COLLAPSE)
