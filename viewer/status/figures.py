"""Numbers as short text: sparklines, bars, lengths of time."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Sequence

BLOCKS = "▁▂▃▄▅▆▇█"
ASCII_BLOCKS = "_.-~=+*#"


def sparkline(values: Sequence[float], width: int, blocks: str = BLOCKS) -> str:
    """A series as one line of at most `width` characters, the lowest value as the first of `blocks`, the highest as the last.

    Of more values than that, each character is the mean of as many; of a series that does not change all are in the middle.
    """
    values = [value for value in values if math.isfinite(value)]
    cells = min(width, len(values))
    if not cells:
        return ""
    bounds = [cell * len(values) // cells for cell in range(cells + 1)]
    means = [math.fsum(values[first:end]) / (end - first) for first, end in itertools.pairwise(bounds)]
    low, high = min(means), max(means)
    if high - low <= 1e-9 * max(1.0, abs(high)):
        return blocks[len(blocks) // 2 - 1] * cells
    return "".join(blocks[round((mean - low) / (high - low) * (len(blocks) - 1))] for mean in means)


def bar(share: float, width: int, full: str = "━", empty: str = "╌") -> str:
    """A share of 1 as a bar of `width` characters."""
    done = round(max(0.0, min(1.0, share)) * width)
    return full * done + empty * (width - done)


def duration(seconds: float) -> str:
    """A length of time in its two largest units, as in "3 min 20 s"; shorter ones as "2.3 s" and "40 ms"."""
    if seconds < 0.9995:
        return f"{max(0.0, seconds) * 1000:.0f} ms"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for unit, size, lower, smaller in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if whole >= size:
            count, rest = divmod(whole, size)
            return f"{count} {unit} {rest // smaller} {lower}" if rest // smaller else f"{count} {unit}"
    return f"{whole} s"


def elapsed(seconds: float) -> str:
    """A length of time that goes on, in whole seconds."""
    whole = max(0, int(seconds))
    return duration(whole) if whole >= 10 else f"{whole} s"


def clock(moment: float) -> str:
    """The local time of a moment in Unix seconds; with its date if that is not today's."""
    then = time.localtime(moment)
    today = then[:3] == time.localtime()[:3]
    return time.strftime("%H:%M:%S" if today else "%Y-%m-%d %H:%M:%S", then)


def printable(text: object) -> str:
    """A text on one line without the characters that a terminal obeys: escape codes, and those that turn the direction around."""
    return "".join(character if character.isprintable() else " " for character in " ".join(str(text).split()))
