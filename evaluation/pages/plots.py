"""Plots as inline SVG: values in rows, over named places, and in a plane. `curves` draws what goes on over many steps.

Values are in their own units; `percent` as the format shows fractions as percent. A value that is no finite number has no mark,
and a row says so by a dash; names that are too long for their place are cut.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from evaluation.pages import marks
from evaluation.pages.document import Plot
from evaluation.types import Interval

_WIDTH, _LEFT, _RIGHT, _ROW, _TOP, _BOTTOM, _LINES = 560, 200, 70, 24, 8, 34, 240
_LONGEST_PLACE = 14  # characters of the name of a place on an axis
_CHARACTER, _LEVEL = 7, 14  # the room that a point's name takes: across for each character, and up


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


def rows(
    title: str, content: Sequence[Row], caption: str = "", *, bounds: Interval | None = None, form: marks.Format = percent
) -> Plot:
    """Dots with intervals, one row each. `bounds` are those of the axis; without them, what the rows need."""
    low, high = bounds or marks.bounds(marks.finite(end for row in content for end in (row.value, *(row.ci95 or ()))))
    height = _TOP + _ROW * len(content) + _BOTTOM
    x = marks.scale(low, high, _LEFT, _WIDTH - _RIGHT)
    parts = [marks.vertical(x(tick), _TOP, height - _BOTTOM, form(tick), tick == 0) for tick in marks.ticks(low, high)]
    for number, row in enumerate(content):
        y, colour = _TOP + _ROW * (number + 0.5), marks.colour(row.series)
        parts.append(marks.text(_LEFT - 10, y + 4, marks.short(row.name), "end"))
        if not math.isfinite(row.value):
            parts.append(marks.text(_WIDTH - _RIGHT + 12, y + 4, "–"))
            continue
        if row.ci95 and len(marks.finite(row.ci95)) == 2:
            ends = [x(min(max(end, low), high)) for end in row.ci95]
            parts.append(f'<path d="M{ends[0]:.1f} {y:.1f}H{ends[1]:.1f}" stroke="{colour}" stroke-width="3" opacity=".5"/>')
        parts.append(f'<circle cx="{x(row.value):.1f}" cy="{y:.1f}" r="5" fill="{colour}"/>')
        parts.append(marks.text(_WIDTH - _RIGHT + 12, y + 4, form(row.value)))
    values = [(row.name, form(row.value) if math.isfinite(row.value) else "–", marks.interval(row.ci95, form)) for row in content]
    described = "; ".join(f"{name} {value}" for name, value, _ in values)
    return Plot(
        title, tuple(parts), _WIDTH, height, caption, described, (("name", "value", "95 % interval"), *values) if values else ()
    )


def lines(title: str, places: Sequence[str], content: Sequence[Line], caption: str = "", *, form: marks.Format = percent) -> Plot:
    """Lines over named places, with their bands and a legend."""
    ends = (end for line in content for interval in line.ci95 or () for end in interval)
    low, high = marks.bounds(marks.finite([*(value for line in content for value in line.values if value is not None), *ends]))
    left, legend = 60, 18 * len(content)
    bottom = _TOP + _LINES
    y = marks.scale(low, high, bottom, _TOP)
    x = marks.scale(0, max(len(places) - 1, 1), left + 20, _WIDTH - 50)
    parts = [marks.horizontal(left, _WIDTH - 10, y(tick), form(tick), tick == 0) for tick in marks.ticks(low, high)]
    step, last = math.ceil(len(places) / 8), len(places) - 1
    parts += [
        marks.text(x(at), bottom + 18, marks.short(name, _LONGEST_PLACE), "middle")
        for at, name in enumerate(places)
        if at == last or (at % step == 0 and last - at >= step)
    ]
    for number, line in enumerate(content):
        colour, dash = marks.colour(number), ' stroke-dasharray="6 4"' if line.dashed else ""
        ends_of = [(x(at), y(ends[0]), y(ends[1])) for at, ends in enumerate(line.ci95 or ()) if len(marks.finite(ends)) == 2]
        parts.append(marks.band(ends_of, colour))
        known = [(x(at), y(value)) for at, value in enumerate(line.values) if value is not None and math.isfinite(value)]
        parts.append(marks.path(known, colour, f'stroke-width="2"{dash}'))
        parts += [f'<circle cx="{across:.1f}" cy="{down:.1f}" r="3.5" fill="{colour}"/>' for across, down in known]
        level = bottom + 40 + 18 * number
        parts.append(f'<path d="M{left} {level - 4}h26" stroke="{colour}" stroke-width="3"{dash}/>')
        parts.append(marks.text(left + 34, level, marks.short(line.name, 2 * marks.LONGEST)))
    values = [(name, *(_value(line, at, form) for line in content)) for at, name in enumerate(places)]
    described = "; ".join(f"{line.name} from {_value(line, 0, form)} to {_value(line, last, form)}" for line in content if places)
    header = ("place", *(line.name for line in content))
    return Plot(title, tuple(parts), _WIDTH, bottom + 40 + legend, caption, described, (header, *values) if values else ())


def scatter(title: str, across: str, up: str, content: Sequence[Point], caption: str = "") -> Plot:
    """Named points in the plane of two shares, each axis from 0 to 1; `across` and `up` name the axes."""
    side, left = 380, 70
    x, y = marks.scale(0, 1, left, left + side), marks.scale(0, 1, _TOP + side, _TOP)
    parts = [marks.horizontal(left, left + side, y(tick), percent(tick), tick == 0) for tick in marks.ticks(0, 1)]
    parts += [marks.vertical(x(tick), _TOP, _TOP + side, percent(tick), tick == 0) for tick in marks.ticks(0, 1)]
    labels: list[tuple[float, float, float]] = []
    for point in content:
        if not (math.isfinite(point.x) and math.isfinite(point.y)):
            continue
        parts.append(f'<circle cx="{x(point.x):.1f}" cy="{y(point.y):.1f}" r="6" fill="{marks.colour(point.series)}"/>')
        name, begin, level = marks.short(point.name), x(point.x) + 10, y(point.y) + 4
        end = begin + _CHARACTER * len(name)
        while any(begin < last and first < end and abs(taken - level) < _LEVEL for first, last, taken in labels):
            level += _LEVEL
        labels.append((begin, end, level))
        parts.append(marks.text(begin, level, name))
    parts.append(marks.text(left + side / 2, _TOP + side + 36, across, "middle"))
    parts.append(f'<g transform="rotate(-90 14 {_TOP + side / 2})">{marks.text(14, _TOP + side / 2, up, "middle")}</g>')
    below = max([_TOP + side + 36, *(level for *_, level in labels)])
    values = [(point.name, percent(point.x), percent(point.y)) for point in content if math.isfinite(point.x + point.y)]
    described = "; ".join(f"{name}: {x}, {y}" for name, x, y in values)
    table = (("name", across, up), *values) if values else ()
    return Plot(title, tuple(parts), _WIDTH, below + 8, caption, described, table)


def _value(line: Line, at: int, form: marks.Format) -> str:
    value = line.values[at] if at < len(line.values) else None
    return "–" if value is None or not math.isfinite(value) else form(value)
