"""Emblems: pictures that do not show what they stand for, so that only an image search can name them."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

from envs.worlds.microworld.pictures import COLOURS, SIDE

_FIELDS = 4  # each emblem is a board of 4 × 4 coloured figures
_FIGURES = ("disc", "ring", "square", "diamond", "bar", "pole")


@lru_cache(maxsize=16)  # the rollouts of a group ask for the same one
def emblem(number: int) -> Image.Image:
    """The emblem of a number, 448 × 448: same number, same picture; other number, other picture."""
    rng = np.random.default_rng([23, number])
    palette = [COLOURS[name] for name in rng.permutation(list(COLOURS))[:4]]
    picture = Image.new("RGB", (SIDE, SIDE), palette[0])
    draw = ImageDraw.Draw(picture)
    cell = SIDE // _FIELDS
    for row in range(_FIELDS):
        for column in range(_FIELDS):
            left, top = column * cell, row * cell
            ground, figure = rng.permutation(4)[:2]
            draw.rectangle((left, top, left + cell - 1, top + cell - 1), fill=palette[ground])
            _draw(draw, str(rng.choice(_FIGURES)), left, top, cell, palette[figure])
    return picture


def _draw(draw: ImageDraw.ImageDraw, figure: str, left: int, top: int, cell: int, colour: tuple[int, int, int]) -> None:
    near, far = cell // 8, cell - cell // 8
    middle = cell // 2
    box = (left + near, top + near, left + far, top + far)
    if figure == "disc":
        draw.ellipse(box, fill=colour)
    elif figure == "ring":
        draw.ellipse(box, outline=colour, width=cell // 8)
    elif figure == "square":
        draw.rectangle(box, fill=colour)
    elif figure == "diamond":
        corners = ((middle, near), (far, middle), (middle, far), (near, middle))
        draw.polygon([(left + x, top + y) for x, y in corners], fill=colour)
    elif figure == "bar":
        draw.rectangle((left, top + cell // 3, left + cell - 1, top + 2 * cell // 3), fill=colour)
    else:
        draw.rectangle((left + cell // 3, top, left + 2 * cell // 3, top + cell - 1), fill=colour)
