"""Questions of perception: digits on cards that only a crop shows; digits seen close and colours of flags, which need no tool."""

from __future__ import annotations

import numpy as np
from PIL import Image

from envs.worlds.atlas.cards import REDUCTION, backdrop, card, put
from envs.worlds.atlas.types import Draft, Materials, Template, pick

ORDINALS = ("first", "second", "third", "fourth")
CELLS = [(column, row) for row in range(4) for column in range(4)]
_COLOURS = {
    "red": (205, 30, 45),
    "green": (0, 130, 60),
    "blue": (20, 60, 150),
    "white": (255, 255, 255),
    "yellow": (250, 215, 30),
    "black": (0, 0, 0),
}
_CLEAR_SHARE, _CLEAR_LEAD = 0.45, 0.2


def place_words(column: int, row: int) -> str:
    """The position of a cell, in words."""
    return f"the {ORDINALS[row]} row and the {ORDINALS[column]} column of four equal rows and columns"


def with_cards(materials: Materials, rng: np.random.Generator, cells: list[tuple[int, int]]) -> tuple[Image.Image, str]:
    """A photograph with a card in each of the cells, and the number that the cards spell."""
    picture, number = backdrop(pick(rng, list(materials.photographs.values()))), ""
    for column, row in cells:
        which = int(rng.integers(len(materials.digits)))
        put(picture, card(materials.digits[which]), column, row, rng)
        number += str(materials.shown[which])
    return picture, number


def _cards(count: int) -> Template:
    def make(materials: Materials, rng: np.random.Generator) -> Draft:
        first = pick(rng, [cell for cell in CELLS if cell[0] + count <= 4])
        cells = [(first[0] + step, first[1]) for step in range(count)]
        picture, number = with_cards(materials, rng, cells)
        where = place_words(*cells[0])
        question = (
            f"A small card with a handwritten digit lies on this photograph, in {where}. Which digit is it?"
            if count == 1
            else f"{'Two' if count == 2 else 'Three'} small cards with a handwritten digit each lie side by side on this "
            f"photograph, the leftmost in {where}, one to a column. Which number do they spell?"
        )
        return Draft(question, number, {"answer": "digits", "cards": cells}, images=(picture,), reduction=REDUCTION)

    return Template(f"card_{count}", "perception", ("code",), make)


def _close(materials: Materials, rng: np.random.Generator) -> Draft:
    which = int(rng.integers(len(materials.digits)))
    picture = card(materials.digits[which]).resize((240, 240), Image.Resampling.BICUBIC)
    answer = str(materials.shown[which])
    return Draft("Which digit is written here?", answer, {"answer": "say", "say": answer}, images=(picture,))


def _colour(materials: Materials, rng: np.random.Generator) -> Draft | None:
    flag = pick(rng, list(materials.flags.values()))
    colour = main_colour(flag)
    if colour is None:
        return None
    return Draft("Which colour covers most of this flag?", colour, {"answer": "say", "say": colour}, images=(flag,))


def main_colour(flag: Image.Image) -> str | None:
    """The colour that covers most of the flag; None if none clearly does."""
    pixels = np.asarray(flag.resize((64, 48)), np.float32).reshape(-1, 1, 3)
    palette = np.array(list(_COLOURS.values()), np.float32)
    nearest = np.linalg.norm(pixels - palette, axis=2).argmin(axis=1)
    shares = np.bincount(nearest, minlength=len(palette)) / len(pixels)
    first, second = np.sort(shares)[::-1][:2]
    return list(_COLOURS)[int(shares.argmax())] if first >= _CLEAR_SHARE and first - second >= _CLEAR_LEAD else None


TEMPLATES = (
    *(_cards(count) for count in (1, 2, 3)),
    Template("digit_close", "perception", (), _close),
    Template("flag_colour", "perception", (), _colour),
)
