"""Pictures of the built-in world: 448 × 448 pixels; the policy is shown a copy reduced four times.

The backdrop rises in red from left to right and in blue from top to bottom, so that every position looks different. A digit is a
checkerboard of 2-pixel squares around the grey of its plate: reduced four times by a box filter it vanishes without a trace, so the
reduced pictures of two digits are identical, and only a crop at full size shows which one it is.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image, ImageDraw

SIDE, REDUCTION, CELL = 448, 4, 112
COLOURS = {
    "red": (220, 40, 40),
    "green": (40, 190, 60),
    "yellow": (235, 215, 50),
    "white": (245, 245, 245),
    "black": (15, 15, 15),
    "cyan": (60, 215, 225),
}
SHAPES = ("circle", "square", "triangle", "cross")

# 5 × 7 dots a digit, a row per string.
_GLYPHS = (
    ("01110", "10001", "10011", "10101", "11001", "10001", "01110"),
    ("00100", "01100", "00100", "00100", "00100", "00100", "01110"),
    ("01110", "10001", "00001", "00110", "01000", "10000", "11111"),
    ("11110", "00001", "00001", "01110", "00001", "00001", "11110"),
    ("00010", "00110", "01010", "10010", "11111", "00010", "00010"),
    ("11111", "10000", "11110", "00001", "00001", "10001", "01110"),
    ("00110", "01000", "10000", "11110", "10001", "10001", "01110"),
    ("11111", "00001", "00010", "00100", "01000", "01000", "01000"),
    ("01110", "10001", "10001", "01110", "10001", "10001", "01110"),
    ("01110", "10001", "10001", "01111", "00001", "00010", "01100"),
)
_DOT = 8
_CONTRAST = 90


def view(picture: Image.Image) -> Image.Image:
    """The copy that the policy is shown: 112 × 112, by box filter."""
    return picture.reduce(REDUCTION)


def pictured(picture: Image.Image) -> dict[str, Any]:
    """The fields of a `Task` about a picture: the picture itself for the tools, the copy for the policy."""
    return {"images": (picture,), "views": (view(picture),)}


def shape_picture(rng: np.random.Generator, colour: str, shape: str) -> Image.Image:
    """A large shape near the centre of the backdrop."""
    picture = Image.fromarray(_backdrop(rng))
    draw = ImageDraw.Draw(picture)
    x, y = (SIDE // 2 + rng.integers(-24, 25, size=2)).tolist()
    radius, fill = int(rng.integers(110, 150)), COLOURS[colour]
    if shape == "circle":
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)
    elif shape == "square":
        draw.rectangle((x - radius, y - radius, x + radius, y + radius), fill=fill)
    elif shape == "triangle":
        draw.polygon([(x, y - radius), (x - radius, y + radius), (x + radius, y + radius)], fill=fill)
    else:
        arm = radius // 3
        draw.rectangle((x - radius, y - arm, x + radius, y + arm), fill=fill)
        draw.rectangle((x - arm, y - radius, x + arm, y + radius), fill=fill)
    return picture


def plate_picture(rng: np.random.Generator, digit: int, column: int, row: int) -> Image.Image:
    """A plate with a digit in one of 4 × 4 cells; the digit cannot be seen in the view."""
    pixels = _backdrop(rng)
    _draw_plate(rng, pixels, digit, column * CELL, row * CELL)
    return Image.fromarray(pixels)


def close_up_picture(rng: np.random.Generator, digit: int) -> Image.Image:
    """One cell of a plate picture, enlarged to the whole frame: its view is what a crop of that cell shows."""
    column, row = rng.integers(0, 4, size=2).tolist()
    cell = plate_picture(rng, digit, column, row).crop(cell_box(column, row))
    return cell.resize((SIDE, SIDE), Image.Resampling.NEAREST)


def read_digit(crop: np.ndarray) -> int | None:
    """The digit on the plate in a cell at full size, uint8 of shape (CELL, CELL, 3); None if there is none to read."""
    if crop.shape != (CELL, CELL, 3):
        return None
    red = crop[..., 0].astype(np.float64)
    glyphs = [_dots(digit) for digit in range(len(_GLYPHS))]
    height, width = glyphs[0].shape[0] * _DOT, glyphs[0].shape[1] * _DOT
    for down in (-REDUCTION, 0, REDUCTION):  # the positions at which `_draw_plate` puts it
        for right in (-REDUCTION, 0, REDUCTION):
            y, x = (CELL - height) // 2 + down, (CELL - width) // 2 + right
            blocks = red[y : y + height, x : x + width].reshape(height // _DOT, _DOT, width // _DOT, _DOT)
            seen = blocks.std(axis=(1, 3)) > _CONTRAST / 2
            for digit, dots in enumerate(glyphs):
                if np.array_equal(seen, dots):
                    return digit
    return None


def cell_box(column: int, row: int) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of a cell in pixels of the full-size picture."""
    return column * CELL, row * CELL, (column + 1) * CELL, (row + 1) * CELL


def _backdrop(rng: np.random.Generator) -> np.ndarray:
    rise = np.linspace(20, 200, SIDE)
    pixels = np.empty((SIDE, SIDE, 3), np.uint8)
    pixels[..., 0] = rise[None, :] + rng.uniform(-5, 5)
    pixels[..., 1] = rng.uniform(20, 90)
    pixels[..., 2] = rise[:, None] + rng.uniform(-5, 5)
    return pixels


def _draw_plate(rng: np.random.Generator, pixels: np.ndarray, digit: int, left: int, top: int) -> None:
    # All offsets are multiples of the reduction: a box of the filter then never straddles the edge of a dot.
    width, height = 72, 88
    x = left + (CELL - width) // 2 + REDUCTION * int(rng.integers(-1, 2))
    y = top + (CELL - height) // 2 + REDUCTION * int(rng.integers(-1, 2))
    grey = int(rng.integers(115, 141))
    pixels[y : y + height, x : x + width] = grey
    mask = _dots(digit).repeat(_DOT, axis=0).repeat(_DOT, axis=1)
    rows, columns = np.indices(mask.shape)
    board = np.where((rows // 2 + columns // 2) % 2 == 0, grey + _CONTRAST, grey - _CONTRAST)
    y += (height - mask.shape[0]) // 2
    x += (width - mask.shape[1]) // 2
    pixels[y : y + mask.shape[0], x : x + mask.shape[1]][mask] = board[mask][:, None]


def _dots(digit: int) -> np.ndarray:
    """Booleans of shape (7, 5)."""
    return np.array([[dot == "1" for dot in line] for line in _GLYPHS[digit]])
