"""Types of Atlas: the materials of questions, the drafts of a template, and the plan by which the scripted expert solves one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from envs.worlds.atlas.sources import Country

Plan = Mapping[str, Any]
"""How the expert solves a question: see `envs.worlds.atlas.expert`. It contains nothing that the question does not show."""


@dataclass(frozen=True, slots=True)
class Materials:
    """The materials for the questions of one split. `flags` are by country, `photographs` by title."""

    countries: Sequence[Country]
    flags: Mapping[str, Image.Image]
    photographs: Mapping[str, Image.Image]
    digits: np.ndarray
    """Ink of 0 to 16, uint8 of shape (N, 8, 8)."""
    shown: np.ndarray
    """The label of each digit, of shape (N,)."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A question before it is written to a file.

    `scoring` is the argument of `Scoring.from_mapping`. `reduction` is the factor by which the policy's copy of the images is
    smaller. `searched` are images with the title that the image search has to return.
    """

    question: str
    answer: str
    plan: Plan
    scoring: Mapping[str, Any] = field(default_factory=dict)
    images: tuple[Image.Image, ...] = ()
    reduction: int = 1
    searched: tuple[tuple[Image.Image, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Template:
    """A kind of question. `make` draws one; it returns None if the draw gave no usable question."""

    name: str
    ability: str
    needed_tools: tuple[str, ...]
    make: Callable[[Materials, np.random.Generator], Draft | None]


def compute(expression: str) -> float:
    """The value of a template's own arithmetic: the text that the expert's code prints."""
    return eval(expression, {"__builtins__": {}})


def pick[T](rng: np.random.Generator, options: Sequence[T]) -> T:
    """One of the options, drawn uniformly."""
    return options[int(rng.integers(len(options)))]


def pick_some[T](rng: np.random.Generator, options: Sequence[T], count: int) -> list[T]:
    """`count` different options; fewer if there are not as many."""
    return [options[int(index)] for index in rng.permutation(len(options))[:count]]
