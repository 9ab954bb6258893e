"""What plots are made of: scales, ticks, lines and texts in SVG."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from evaluation.pages.document import COLOURS, shown
from evaluation.types import Interval

Format = Callable[[float], str]
Position = tuple[float, float]
Scale = Callable[[float], float]
LONGEST = 30
"""Characters of a name that have room beside its mark."""
_LARGEST, _LEAST = 1e300, 1e-11


def interval(ci95: Interval | None, form: Format) -> str:
    """An interval in words; a dash if there is none."""
    return f"{form(ci95[0])} to {form(ci95[1])}" if ci95 and len(finite(ci95)) == 2 else "–"


def ticks(low: float, high: float) -> list[float]:
    """Round values between two bounds, some five of them; the one value if they are equal."""
    if high <= low:
        return [low]
    raw = (high - low) / 5
    magnitude = 10.0 ** math.floor(math.log10(raw))
    step = next(size * magnitude for size in (1, 2, 2.5, 5, 10) if size * magnitude >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def bounds(values: Sequence[float]) -> Interval:
    """Bounds of an axis that holds the values and 0."""
    low, high = min([0.0, *values]), max([0.0, *values])
    room = 0.05 * (high - low) if high - low > _LEAST else 0.5  # ticks are rounded to 12 digits
    return (low - room if low < 0 else 0.0), high + room


def path(positions: Sequence[Position], colour: str, more: str) -> str:
    """A line through positions in the picture; `more` are attributes of it."""
    joined = "L".join(f"{across:.1f} {down:.1f}" for across, down in positions)
    return f'<path d="M{joined}" fill="none" stroke="{colour}" {more}/>' if positions else ""


def band(edges: Sequence[tuple[float, float, float]], colour: str) -> str:
    """The area between two lines: where it is across, and the lines' places down."""
    there = [f"{across:.1f} {high:.1f}" for across, _, high in edges]
    back = [f"{across:.1f} {low:.1f}" for across, low, _ in reversed(edges)]
    return f'<path d="M{"L".join([*there, *back])}Z" fill="{colour}" opacity=".14"/>' if edges else ""


def scale(low: float, high: float, begin: float, end: float) -> Scale:
    """Takes values between two bounds to places between two ends."""
    return lambda value: begin + (value - low) / (high - low) * (end - begin)


def colour(series: int) -> str:
    """The colour of a series, by its number."""
    return f"var(--s{series % COLOURS})"


def text(x: float, y: float, text: str, anchor: str = "start") -> str:
    """A text at a place; `anchor` says which end of it is there."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{shown(text)}</text>'


def short(name: str, longest: int = LONGEST) -> str:
    """The end of a name that is too long for its place, such as a path."""
    return name if len(name) <= longest else f"…{name[1 - longest :]}"


def finite(values: Iterable[float]) -> list[float]:
    """The values that are numbers, and no so large ones that their differences are none."""
    return [value for value in values if abs(value) < _LARGEST]


def vertical(x: float, top: float, bottom: float, label: str, zero: bool) -> str:
    """A line of the grid with its label below; that of 0 stands out."""
    line = f'<path class="{"zero" if zero else "grid"}" d="M{x:.1f} {top}V{bottom}"/>'
    return f'{line}<text class="soft" x="{x:.1f}" y="{bottom + 16:.1f}" text-anchor="middle">{shown(label)}</text>'


def horizontal(left: float, right: float, y: float, label: str, zero: bool) -> str:
    """A line of the grid with its label on the left; that of 0 stands out."""
    line = f'<path class="{"zero" if zero else "grid"}" d="M{left} {y:.1f}H{right}"/>'
    return f'{line}<text class="soft" x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{shown(label)}</text>'
