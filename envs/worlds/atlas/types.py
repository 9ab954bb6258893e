"""Types of Atlas: what questions are made of, what a template makes, and the plan by which the scripted expert solves it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from envs.worlds.atlas.sources import Country

Plan = Mapping[str, Any]
"""How the expert goes about a question: see `envs.worlds.atlas.expert`. It names nothing that the question does not show."""


@dataclass(frozen=True, slots=True)
class Materials:
    """What the questions of one split may be about. `flags` and `photographs` are by country and by title."""

    countries: Sequence[Country]
    flags: Mapping[str, Image.Image]
    photographs: Mapping[str, Image.Image]
    digits: np.ndarray
    """Ink of 0 to 16, uint8 of shape (N, 8, 8)."""
    shown: np.ndarray
    """What each digit is, of shape (N,)."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A question before it is written. `scoring` is what `Scoring.from_mapping` takes. `reduction` is by how much the policy's copy
    of the images is smaller. `searched` are images with the title that the image search has to name.
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
    """A kind of question. `make` draws one; None where the draw gave nothing that can be asked."""

    name: str
    ability: str
    needed_tools: tuple[str, ...]
    make: Callable[[Materials, np.random.Generator], Draft | None]


def compute(expression: str) -> float:
    """The value of a template's own arithmetic: the text that the expert's code prints."""
    return eval(expression, {"__builtins__": {}})


def pick[T](rng: np.random.Generator, options: Sequence[T]) -> T:
    """One of them."""
    return options[int(rng.integers(len(options)))]


def pick_some[T](rng: np.random.Generator, options: Sequence[T], count: int) -> list[T]:
    """`count` different ones; fewer where there are not as many."""
    return [options[int(place)] for place in rng.permutation(len(options))[:count]]
