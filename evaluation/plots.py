"""Plots as inline SVG, and the page that holds them: one file, light and dark, that asks for nothing from outside.

A plot is a text that begins with `<figure>`; `page` puts several into one HTML document. Values are in their own units; `percent`
as the format shows fractions as percent. A value that is no finite number has no mark, and a row says so by a dash; names that are
too long for their place are cut.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from evaluation.types import Interval

Format = Callable[[float], str]
_WIDTH, _LEFT, _RIGHT, _ROW, _TOP, _BOTTOM, _LINES = 720, 210, 84, 26, 8, 34, 260
_LONGEST, _LONGEST_PLACE = 30, 14  # characters of the name of a row or a point, and of a place on an axis
_CHARACTER, _LEVEL = 7, 14  # the room that a point's name takes: across for each character, and up
COLOURS = 6
"""Number of colours of series; a seventh has the first again."""

_STYLE = """
:root{color-scheme:light dark;--back:#fff;--ink:#1f2328;--soft:#59636e;--line:#d8dee4;
--s0:#0969da;--s1:#bc4c00;--s2:#1a7f37;--s3:#8250df;--s4:#bf3989;--s5:#57606a}
@media(prefers-color-scheme:dark){:root{--back:#0d1117;--ink:#e6edf3;--soft:#9198a1;--line:#30363d;
--s0:#4493f8;--s1:#f0883e;--s2:#3fb950;--s3:#ab7df8;--s4:#db61a2;--s5:#9198a1}}
body{background:var(--back);color:var(--ink);font:16px/1.5 system-ui,sans-serif;max-width:760px;margin:2rem auto;padding:0 1rem}
figure{margin:2rem 0}figcaption{color:var(--soft);font-size:14px}h1{font-size:1.5rem}h2{font-size:1.1rem;margin:0 0 .3rem}
svg{width:100%;height:auto;font:12px system-ui,sans-serif}text{fill:var(--ink)}.soft{fill:var(--soft)}
.grid{stroke:var(--line)}.zero{stroke:var(--soft)}pre{overflow-x:auto;font-size:13px}
"""


@dataclass(frozen=True, slots=True)
class Row:
    """A value of a plot of rows, with its interval if it has one; rows of one `series` have one colour."""

    name: str
    value: float
    ci95: Interval | None = None
    series: int = 0


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a plot of lines: a value for each place, None if there is none, and intervals that are drawn as a band."""

    name: str
    values: Sequence[float | None]
    ci95: Sequence[Interval] | None = None
    dashed: bool = False


@dataclass(frozen=True, slots=True)
class Point:
    """A point of a scatter plot; its name is shown beside it."""

    name: str
    x: float
    y: float
    series: int = 0


def percent(value: float) -> str:
    """A fraction in percent."""
    return f"{100 * value:.0f} %"


def points(value: float) -> str:
    """A difference of fractions in percentage points."""
    return f"{100 * value:+.0f}"


def rows(title: str, content: Sequence[Row], caption: str = "", *, bounds: Interval | None = None, form: Format = percent) -> str:
    """Dots with intervals, one row each. `bounds` are those of the axis; without them, what the rows need."""
    low, high = bounds or _bounds(_finite(end for row in content for end in (row.value, *(row.ci95 or ()))))
    height = _TOP + _ROW * len(content) + _BOTTOM
    x = _scale(low, high, _LEFT, _WIDTH - _RIGHT)
    parts = [_vertical(x(tick), _TOP, height - _BOTTOM, form(tick), tick == 0) for tick in ticks(low, high)]
    for number, row in enumerate(content):
        y, colour = _TOP + _ROW * (number + 0.5), _colour(row.series)
        parts.append(_text(_LEFT - 10, y + 4, _short(row.name), "end"))
        if not math.isfinite(row.value):
            parts.append(_text(_WIDTH - _RIGHT + 12, y + 4, "–"))
            continue
        if row.ci95 and len(_finite(row.ci95)) == 2:
            ends = [x(min(max(end, low), high)) for end in row.ci95]
            parts.append(f'<path d="M{ends[0]:.1f} {y:.1f}H{ends[1]:.1f}" stroke="{colour}" stroke-width="3" opacity=".5"/>')
        parts.append(f'<circle cx="{x(row.value):.1f}" cy="{y:.1f}" r="5" fill="{colour}"/>')
        parts.append(_text(_WIDTH - _RIGHT + 12, y + 4, form(row.value)))
    return _figure(title, parts, height, caption)


def lines(title: str, places: Sequence[str], content: Sequence[Line], caption: str = "", *, form: Format = percent) -> str:
    """Lines over named places, with their bands and a legend."""
    ends = (end for line in content for interval in line.ci95 or () for end in interval)
    low, high = _bounds(_finite([*(value for line in content for value in line.values if value is not None), *ends]))
    left, legend = 60, 18 * len(content)
    bottom = _TOP + _LINES
    y = _scale(low, high, bottom, _TOP)
    x = _scale(0, max(len(places) - 1, 1), left + 20, _WIDTH - 50)
    parts = [_horizontal(left, _WIDTH - 10, y(tick), form(tick), tick == 0) for tick in ticks(low, high)]
    step, last = math.ceil(len(places) / 8), len(places) - 1
    parts += [
        _text(x(at), bottom + 18, _short(name, _LONGEST_PLACE), "middle")
        for at, name in enumerate(places)
        if at == last or (at % step == 0 and last - at >= step)
    ]
    for number, line in enumerate(content):
        colour, dash = _colour(number), ' stroke-dasharray="6 4"' if line.dashed else ""
        band = [(x(at), ends) for at, ends in enumerate(line.ci95 or ()) if len(_finite(ends)) == 2]
        if band:
            above = [f"{across:.1f} {y(ends[1]):.1f}" for across, ends in band]
            below = [f"{across:.1f} {y(ends[0]):.1f}" for across, ends in band]
            parts.append(f'<path d="M{"L".join([*above, *reversed(below)])}Z" fill="{colour}" opacity=".12"/>')
        known = [(x(at), y(value)) for at, value in enumerate(line.values) if value is not None and math.isfinite(value)]
        path = "L".join(f"{across:.1f} {down:.1f}" for across, down in known)
        parts.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>' if known else "")
        parts += [f'<circle cx="{across:.1f}" cy="{down:.1f}" r="3.5" fill="{colour}"/>' for across, down in known]
        level = bottom + 40 + 18 * number
        parts.append(f'<path d="M{left} {level - 4}h26" stroke="{colour}" stroke-width="3"{dash}/>')
        parts.append(_text(left + 34, level, _short(line.name, 2 * _LONGEST)))
    return _figure(title, parts, bottom + 40 + legend, caption)


def scatter(title: str, across: str, up: str, content: Sequence[Point], caption: str = "") -> str:
    """Named points in the plane of two shares, each axis from 0 to 1; `across` and `up` name the axes."""
    side, left = 380, 70
    x, y = _scale(0, 1, left, left + side), _scale(0, 1, _TOP + side, _TOP)
    parts = [_horizontal(left, left + side, y(tick), percent(tick), tick == 0) for tick in ticks(0, 1)]
    parts += [_vertical(x(tick), _TOP, _TOP + side, percent(tick), tick == 0) for tick in ticks(0, 1)]
    labels: list[tuple[float, float, float]] = []
    for point in content:
        if not (math.isfinite(point.x) and math.isfinite(point.y)):
            continue
        parts.append(f'<circle cx="{x(point.x):.1f}" cy="{y(point.y):.1f}" r="6" fill="{_colour(point.series)}"/>')
        name, begin, level = _short(point.name), x(point.x) + 10, y(point.y) + 4
        end = begin + _CHARACTER * len(name)
        while any(begin < last and first < end and abs(taken - level) < _LEVEL for first, last, taken in labels):
            level += _LEVEL
        labels.append((begin, end, level))
        parts.append(_text(begin, level, name))
    parts.append(_text(left + side / 2, _TOP + side + 36, across, "middle"))
    parts.append(f'<g transform="rotate(-90 14 {_TOP + side / 2})">{_text(14, _TOP + side / 2, up, "middle")}</g>')
    below = max([_TOP + side + 36, *(level for *_, level in labels)])
    return _figure(title, parts, below + 8, caption)


def page(title: str, figures: Sequence[str], text: str = "") -> str:
    """An HTML document of figures; `text` stands below them as it is, in a fixed-width font."""
    below = f"<pre>{html.escape(text)}</pre>" if text else ""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head>"
        f"<body><h1>{html.escape(title)}</h1>{''.join(figures)}{below}</body></html>\n"
    )


def ticks(low: float, high: float) -> list[float]:
    """Round values between two bounds, some five of them; the one value if they are equal."""
    if high <= low:
        return [low]
    raw = (high - low) / 5
    magnitude = 10.0 ** math.floor(math.log10(raw))
    step = next(size * magnitude for size in (1, 2, 2.5, 5, 10) if size * magnitude >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def _bounds(values: Sequence[float]) -> Interval:
    low, high = min([0.0, *values]), max([0.0, *values])
    room = 0.05 * (high - low) or 0.5
    return (low - room if low < 0 else 0.0), high + room


def _scale(low: float, high: float, begin: float, end: float) -> Callable[[float], float]:
    return lambda value: begin + (value - low) / (high - low) * (end - begin)


def _colour(series: int) -> str:
    return f"var(--s{series % COLOURS})"


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{html.escape(text)}</text>'


def _short(name: str, longest: int = _LONGEST) -> str:
    """The end of a name that is too long for its place, such as a path."""
    return name if len(name) <= longest else f"…{name[1 - longest :]}"


def _finite(values: Iterable[float]) -> list[float]:
    return [value for value in values if math.isfinite(value)]


def _vertical(x: float, top: float, bottom: float, label: str, zero: bool) -> str:
    line = f'<path class="{"zero" if zero else "grid"}" d="M{x:.1f} {top}V{bottom}"/>'
    return f'{line}<text class="soft" x="{x:.1f}" y="{bottom + 16:.1f}" text-anchor="middle">{html.escape(label)}</text>'


def _horizontal(left: float, right: float, y: float, label: str, zero: bool) -> str:
    line = f'<path class="{"zero" if zero else "grid"}" d="M{left} {y:.1f}H{right}"/>'
    return f'{line}<text class="soft" x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{html.escape(label)}</text>'


def _figure(title: str, parts: Sequence[str], height: float, caption: str) -> str:
    name = html.escape(title, quote=True)
    svg = f'<svg viewBox="0 0 {_WIDTH} {height:.0f}" role="img" aria-label="{name}">{"".join(parts)}</svg>'
    return f"<figure><h2>{html.escape(title)}</h2>{svg}<figcaption>{html.escape(caption)}</figcaption></figure>"
