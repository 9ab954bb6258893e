"""A picture of counts on the plane of two shares, as the pass rates without tools and with them: a cell for each pair."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image, ImageColor, ImageDraw, ImageFont

INK, GREY, LINE = "#1f2328", "#6e7781", "#d0d7de"
COLOURS = ("#0969da", "#bc4c00", "#6e7781", "#1a7f37", "#8250df")
"""Of the kinds, in order: blue, orange, grey, green, violet."""

_SCALE = 2  # pixels a unit: sharp on screens of high density
_CELL, _LEFT, _TOP, _BOTTOM, _LEGEND = 46, 70, 64, 62, 250


@dataclass(frozen=True, slots=True)
class Plane:
    """What is drawn: points `(x, y, kind)` with shares between 0 and 1 and a kind that gives a colour.

    The plane has `cells` + 1 cells a side; a share between two goes to the nearer one. A cell that holds several kinds has a strip
    of each, in proportion. `kinds` are the words of the legend by kind, in order.
    """

    points: Sequence[tuple[float, float, str]]
    kinds: Mapping[str, str]
    cells: int
    title: str
    x_label: str
    y_label: str


def draw_plane(plane: Plane) -> bytes:
    """The picture, as PNG. The darker a cell, the more points it has; the number stands in it."""
    side = _CELL * (plane.cells + 1)
    size = (_LEFT + side + _LEGEND, _TOP + side + _BOTTOM)
    figure = Image.new("RGB", (size[0] * _SCALE, size[1] * _SCALE), "white")
    pen = _Pen(ImageDraw.Draw(figure))
    pen.text(_LEFT, 16, plane.title, INK, 17)
    held = _counts(plane)
    most = max((sum(kinds.values()) for kinds in held.values()), default=1)
    for column in range(plane.cells + 1):
        for row in range(plane.cells + 1):
            left, top = _LEFT + column * _CELL, _TOP + (plane.cells - row) * _CELL
            _draw_cell(pen, left, top, held.get((column, row), {}), plane, most)
    every = max(1, math.ceil(plane.cells / 8))
    for tick in range(0, plane.cells + 1, every):
        share = f"{tick / plane.cells:.3g}"
        pen.text(_LEFT + (tick + 0.5) * _CELL, _TOP + side + 6, share, GREY, 12, "ma")
        pen.text(_LEFT - 8, _TOP + (plane.cells - tick + 0.5) * _CELL, share, GREY, 12, "rm")
    pen.text(_LEFT + side / 2, _TOP + side + 30, plane.x_label, INK, 14, "ma")
    pen.text(_LEFT, 42, plane.y_label, INK, 14)
    for place, (kind, words) in enumerate(plane.kinds.items()):
        top, left = _TOP + 8 + 28 * place, _LEFT + side + 20
        pen.box(left, top, left + 16, top + 16, _colour(plane, kind), LINE)
        pen.text(left + 24, top + 8, f"{words}: {sum(kinds.get(kind, 0) for kinds in held.values())}", INK, 13, "lm")
    encoded = io.BytesIO()
    figure.convert("P", palette=Image.Palette.ADAPTIVE, colors=128).save(encoded, "PNG", optimize=True)
    return encoded.getvalue()


class _Pen:
    """Draws in units that do not depend on the scale."""

    def __init__(self, draw: ImageDraw.ImageDraw) -> None:
        self._draw = draw

    def box(self, left: float, top: float, right: float, bottom: float, fill: str, outline: str | None = None) -> None:
        self._draw.rectangle([round(edge * _SCALE) for edge in (left, top, right, bottom)], fill=fill, outline=outline)

    def text(self, x: float, y: float, words: str, fill: str, size: int, anchor: str = "la") -> None:
        self._draw.text((x * _SCALE, y * _SCALE), words, fill, ImageFont.load_default(size * _SCALE), anchor=anchor)


def _counts(plane: Plane) -> dict[tuple[int, int], dict[str, int]]:
    """How many points of each kind a cell holds, by column and row."""
    held: dict[tuple[int, int], dict[str, int]] = {}
    for x, y, kind in plane.points:
        kinds = held.setdefault((round(x * plane.cells), round(y * plane.cells)), {})
        kinds[kind] = kinds.get(kind, 0) + 1
    return held


def _draw_cell(pen: _Pen, left: float, top: float, kinds: Mapping[str, int], plane: Plane, most: int) -> None:
    pen.box(left, top, left + _CELL, top + _CELL, "white", LINE)
    count = sum(kinds.values())
    if not count:
        return
    weight = 0.2 + 0.8 * math.log1p(count) / math.log1p(most)
    begin = left + 1
    for kind in plane.kinds:
        width = (_CELL - 2) * kinds.get(kind, 0) / count
        if width:
            pen.box(begin, top + 1, begin + width, top + _CELL - 1, _paler(_colour(plane, kind), weight))
            begin += width
    pen.text(left + _CELL / 2, top + _CELL / 2, f"{count:,}", "white" if weight > 0.6 else INK, 13, "mm")


def _colour(plane: Plane, kind: str) -> str:
    return COLOURS[list(plane.kinds).index(kind) % len(COLOURS)]


def _paler(colour: str, weight: float) -> str:
    """A colour over white."""
    return "#" + "".join(f"{round(255 - (255 - part) * weight):02x}" for part in ImageColor.getrgb(colour)[:3])
