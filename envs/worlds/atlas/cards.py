"""Small objects in large photographs: cards with a handwritten digit, hanging flags. Only a crop at full size shows them.

A photograph is `SIDE` × `SIDE` pixels in 4 × 4 cells; the policy is shown a copy reduced `REDUCTION` times. An object in a cell has
a magenta frame of one pixel, which separates it from the photograph.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from PIL import Image, ImageOps

from envs.worlds.atlas.sources import digits

SIDE, CELL, REDUCTION = 1024, 256, 8
_FRAME = (255, 0, 255)
_DOT = 3  # pixels of a digit's dot: less than half a pixel of the reduced copy
_INK = 16
FLAG_WIDTH = 160


def backdrop(photograph: Image.Image) -> Image.Image:
    """The photograph as a square of `SIDE` pixels."""
    return ImageOps.fit(photograph, (SIDE, SIDE), Image.Resampling.LANCZOS)


def cell_box(column: int, row: int) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of a cell in pixels."""
    return column * CELL, row * CELL, (column + 1) * CELL, (row + 1) * CELL


def card(digit: np.ndarray) -> Image.Image:
    """A white card with a digit, given as ink of shape (8, 8)."""
    paper = 255 - (digit.astype(np.uint16) * 255 // _INK).astype(np.uint8)
    return Image.fromarray(paper.repeat(_DOT, axis=0).repeat(_DOT, axis=1)).convert("RGB")


def put(picture: Image.Image, thing: Image.Image, column: int, row: int, rng: np.random.Generator) -> None:
    """Puts `thing`, framed, at a random position in a cell of the picture."""
    framed = ImageOps.expand(thing, 1, _FRAME)
    left, top, *_ = cell_box(column, row)
    x, y = (int(rng.integers(4, CELL - size - 4)) for size in framed.size)
    picture.paste(framed, (left + x, top + y))


def framed_box(cell: np.ndarray) -> tuple[int, int, int, int] | None:
    """Left, top, right, bottom of the frame's content, in pixels of the cell, uint8 of shape (H, W, 3); None without a frame."""
    rows, columns = np.nonzero((cell == _FRAME).all(axis=2))
    if not len(rows):
        return None
    return int(columns.min()) + 1, int(rows.min()) + 1, int(columns.max()), int(rows.max())


def read_card(pixels: np.ndarray) -> int:
    """The digit on a card, uint8 of shape (24, 24, 3): the label of the most similar handwritten digit."""
    ink = (255 - pixels[1::_DOT, 1::_DOT, 0].astype(np.int32)) * _INK // 255
    known, shown = _known()
    if ink.shape != known.shape[1:]:
        return 0
    return int(shown[np.abs(known - ink).sum(axis=(1, 2)).argmin()])


@lru_cache(maxsize=1)
def _known() -> tuple[np.ndarray, np.ndarray]:
    known, shown = digits()
    return known.astype(np.int32), shown
