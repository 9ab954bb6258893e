"""Curves over the steps of training: the values, their mean over neighbouring steps, bands, and marks at steps of note."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from evaluation.pages import marks
from evaluation.pages.document import Plot
from evaluation.pages.plots import percent
from evaluation.types import Interval

SMOOTHING_STEPS = 9
"""Steps over which a smoothed curve takes the centred mean, of long runs; of short ones fewer."""
_WIDTH, _LEFT, _RIGHT, _TOP, _HEIGHT, _LEGEND = 520, 62, 16, 10, 210, 17
_MOST, _LISTED = 300, 100  # places of a curve that are drawn, and that its table lists all of
_SOME = 11  # those that the table of a longer curve lists


@dataclass(frozen=True, slots=True)
class Curve:
    """Values at steps, NaN if there is none; `low` and `high` are the edges of a band. `smooth` draws the values themselves faintly
    and their mean over neighbouring steps strongly."""

    name: str
    steps: Sequence[float]
    values: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    smooth: bool = True
    dashed: bool = False


@dataclass(frozen=True, slots=True)
class Mark:
    """A step of note, as a line across the plot."""

    step: float
    name: str


@dataclass(frozen=True, slots=True)
class Level:
    """A value of note, as a horizontal line in the colour of the curve whose number is `series`."""

    value: float
    series: int
    dots: str = "6 4"


def curves(
    title: str,
    content: Sequence[Curve],
    caption: str = "",
    *,
    form: marks.Format = percent,
    across: str = "step",
    log: bool = False,
    bounds: Interval | None = None,
    noted: Sequence[Mark] = (),
    levels: Sequence[Level] = (),
    places: Mapping[float, str] | None = None,
) -> Plot:
    """Curves over steps, with a legend. With `log` the axis is logarithmic, and only values above 0 are drawn.

    `across` names the steps; `places` are those of them that have a name of their own, the others then having none; `bounds` are
    those of the vertical axis, by default what the values need.
    """
    drawn = [_binned(curve) for curve in content]
    scaled = [_logarithmic(curve) for curve in drawn] if log else drawn
    values = marks.finite(v for c in scaled for part in (c.values, c.low, c.high) if part is not None for v in part)
    values += [level.value for level in levels]
    low, high = bounds or (_log_bounds(values) if log else marks.bounds(values))
    steps = marks.finite(step for curve in scaled for step in curve.steps) or [0.0]
    bottom = _TOP + _HEIGHT
    y = marks.scale(low, high, bottom, _TOP)
    first, last = min(steps), max(steps)
    if places is None or first == last:
        last = max(last, first + 1)
    names = places if places is not None else {tick: f"{tick:,.0f}" for tick in marks.ticks(first, last) if tick == int(tick)}
    x = marks.scale(first, last, _LEFT, _WIDTH - _RIGHT)
    parts = [_grid(y(tick), (_power if log else form)(tick), tick == 0 and not log) for tick in _ticks(low, high, log)]
    parts += [
        f'<text class="soft" x="{x(tick):.1f}" y="{bottom + 16}" text-anchor="middle">{marks.short(name)}</text>'
        for tick, name in names.items()
    ]
    parts.append(f'<text class="soft" x="{_WIDTH - _RIGHT}" y="{bottom + 32}" text-anchor="end">{across}</text>')
    for level in levels:
        dash = f'stroke="{marks.colour(level.series)}" stroke-dasharray="{level.dots}" opacity=".7"'
        parts.append(f'<path d="M{_LEFT} {y(level.value):.1f}H{_WIDTH - _RIGHT}" {dash}/>')
    for number, curve in enumerate(scaled):
        parts += _series(curve, marks.colour(number), x, y, (low, high))
    for number, mark in enumerate(noted):
        place = x(mark.step)
        anchor, beside = ("end", place - 4) if place > _WIDTH / 2 else ("start", place + 4)
        parts.append(f'<path d="M{place:.1f} {_TOP}V{bottom}" stroke="var(--alarm)" stroke-dasharray="2 3"/>')
        named = marks.text(beside, _TOP + 10 + 12 * (number % 12), mark.name, anchor)
        parts.append(f'<g class="alarm">{named}</g>')
    level = bottom + 32
    for number, curve in enumerate(content):
        dash = ' stroke-dasharray="6 4"' if curve.dashed else ""
        parts.append(f'<path d="M{_LEFT} {level - 4}h22" stroke="{marks.colour(number)}" stroke-width="3"{dash}/>')
        parts.append(marks.text(_LEFT + 28, level, marks.short(curve.name, 2 * marks.LONGEST)))
        level += _LEGEND
    described = "; ".join([*(_described(curve, form) for curve in content), *(f"{m.name} at {m.step:g}" for m in noted)])
    height = max(level - _LEGEND, bottom + 32) + 8
    return Plot(title, tuple(parts), _WIDTH, height, caption, described, _table(content, across, form, places or {}))


def smoothed(values: Sequence[float], window: int | None = None) -> np.ndarray:
    """The centred mean over `window` steps, NaN left out; over fewer at both ends. By default of a tenth of them, 9 at most."""
    size = window or max(1, min(SMOOTHING_STEPS, len(values) // 10) | 1)
    half = size // 2
    windows = [np.array(values[max(0, at - half) : at + half + 1], dtype=np.float64) for at in range(len(values))]
    return np.array([np.nan if np.isnan(window).all() else np.nanmean(window) for window in windows])


def short_number(value: float) -> str:
    """Three digits, or powers of ten for what is very small or large."""
    if value and not 1e-3 <= abs(value) < 1e6:
        return f"{value:.1e}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _series(curve: Curve, colour: str, x: marks.Scale, y: marks.Scale, bounds: Interval) -> list[str]:
    low, high = bounds

    def clipped(value: float) -> float:
        return y(min(max(value, low), high))

    def positions(values: Sequence[float]) -> list[marks.Position]:
        pairs = zip(curve.steps, values, strict=True)
        return [(x(step), clipped(value)) for step, value in pairs if math.isfinite(step) and math.isfinite(value)]

    parts = []
    if curve.low is not None and curve.high is not None:
        edges = zip(curve.steps, curve.low, curve.high, strict=True)
        parts.append(marks.band([(x(s), clipped(a), clipped(b)) for s, a, b in edges if len(marks.finite((s, a, b))) == 3], colour))
    dash = ' stroke-dasharray="6 4"' if curve.dashed else ""
    known = positions(curve.values)
    if curve.smooth and len(known) >= 3 * SMOOTHING_STEPS:
        parts.append(marks.path(known, colour, 'stroke-width="1" opacity=".3"'))
        known = positions([*smoothed(curve.values)])
    parts.append(marks.path(known, colour, f'stroke-width="2"{dash}'))
    if len(known) <= SMOOTHING_STEPS:
        parts += [f'<circle cx="{across:.1f}" cy="{down:.1f}" r="3" fill="{colour}"/>' for across, down in known]
    return parts


def _binned(curve: Curve) -> Curve:
    """The curve with means over neighbouring steps, if it has more than can be drawn."""
    size = math.ceil(len(curve.values) / _MOST)
    if size <= 1:
        return curve

    def means(values: Sequence[float]) -> list[float]:
        parts = (marks.finite(values[at : at + size]) for at in range(0, len(values), size))
        return [sum(part) / len(part) if part else math.nan for part in parts]

    edges = (None if part is None else means(part) for part in (curve.low, curve.high))
    return Curve(curve.name, means(curve.steps), means(curve.values), *edges, curve.smooth, curve.dashed)


def _logarithmic(curve: Curve) -> Curve:
    values = [math.log10(value) if math.isfinite(value) and value > 0 else math.nan for value in curve.values]
    return Curve(curve.name, curve.steps, values, smooth=curve.smooth, dashed=curve.dashed)


def _log_bounds(values: Sequence[float]) -> Interval:
    if not values:
        return -1.0, 0.0
    return float(math.floor(min(values))), float(max(math.ceil(max(values)), math.floor(min(values)) + 1))


def _ticks(low: float, high: float, log: bool) -> list[float]:
    if not log:
        return marks.ticks(low, high)
    return [float(power) for power in range(int(low), int(high) + 1, max(1, math.ceil((high - low) / 6)))]


def _power(value: float) -> str:
    return f"1e{value:.0f}"


def _grid(y: float, label: str, zero: bool) -> str:
    return marks.horizontal(_LEFT, _WIDTH - _RIGHT, y, label, zero)


def _described(curve: Curve, form: marks.Format) -> str:
    known = marks.finite(curve.values)
    if not known:
        return f"{curve.name}: no value"
    return f"{curve.name} from {form(known[0])} to {form(known[-1])}, lowest {form(min(known))}, highest {form(max(known))}"


def _table(content: Sequence[Curve], across: str, form: marks.Format, names: Mapping[float, str]) -> tuple[Sequence[str], ...]:
    """The values at all steps, or at some if they are many: the first, the last, and those between at equal distances."""
    steps = sorted({step for curve in content for step in curve.steps if math.isfinite(step)})
    if not steps:
        return ()
    chosen = steps if len(steps) <= _LISTED else sorted({steps[round(at * (len(steps) - 1) / (_SOME - 1))] for at in range(_SOME)})
    by_step = [dict(zip(curve.steps, curve.values, strict=True)) for curve in content]
    lines = [[names.get(step, f"{step:g}"), *(_cell(values.get(step), form) for values in by_step)] for step in chosen]
    return ([across, *(curve.name for curve in content)], *lines)


def _cell(value: float | None, form: marks.Format) -> str:
    return "–" if value is None or not math.isfinite(value) else form(value)
