"""Perception: the colour or the shape of a large shape, or the digit on a plate seen close (no tool needed); the digit on a plate
too far away to read (needs a crop of the full-size picture). Both plates come with the same question: only the picture differs.
"""

from __future__ import annotations

import random

import numpy as np

from envs.protocols.actions import Answer
from envs.tools.calls import run_code
from envs.types import Script, Task
from envs.worlds.microworld.pictures import COLOURS, SHAPES, close_up_picture, pictured, plate_picture, read_digit, shape_picture
from envs.worlds.microworld.scripts import NEEDLESS_CALLS, answer_after, answer_at_once, crop_code
from envs.worlds.microworld.splits import SOURCE

DIGIT_QUESTION = "What digit is on the plate?"
COLOUR_QUESTION = "What colour is the shape?"
SHAPE_QUESTION = "What shape is it?"


def easy(rng: np.random.Generator, split: str, task_id: str) -> Task:
    """A question that the reduced picture answers."""
    kind = int(rng.integers(3))
    if kind == 2:
        digit = int(rng.integers(10))
        picture, question, answer = close_up_picture(rng, digit), DIGIT_QUESTION, str(digit)
    else:
        colour, shape = str(rng.choice(list(COLOURS))), str(rng.choice(SHAPES))
        picture = shape_picture(rng, colour, shape)
        question, answer = (COLOUR_QUESTION, colour) if kind == 0 else (SHAPE_QUESTION, shape)

    def expert(rng: random.Random) -> Script:
        if rng.random() < NEEDLESS_CALLS:
            return answer_after(run_code(crop_code(1, 1)), answer)
        return answer_at_once(answer)

    return Task(
        task_id,
        question,
        answer,
        ("perception",),
        SOURCE,
        **pictured(picture),
        needed_tools=(),
        expert=expert,
    )


def hard(rng: np.random.Generator, split: str, task_id: str) -> Task:
    """A question that only a crop answers."""
    digit, column, row = int(rng.integers(10)), int(rng.integers(4)), int(rng.integers(4))
    picture = plate_picture(rng, digit, column, row)
    return Task(
        task_id,
        DIGIT_QUESTION,
        str(digit),
        ("perception",),
        SOURCE,
        **pictured(picture),
        needed_tools=("code",),
        expert=lambda rng: _read(crop_code(column, row), rng),
    )


def _read(code: str, rng: random.Random) -> Script:
    """Look at the crop that `code` returns; guess if it shows no digit that can be read."""
    observation = yield run_code(code)
    digits = [read_digit(image) for image in observation["images"]]
    digit = next((digit for digit in digits if digit is not None), None)
    yield Answer(str(rng.randrange(10) if digit is None else digit))
