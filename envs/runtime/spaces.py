"""Gymnasium spaces for text in any script and for RGB images of any size."""

from __future__ import annotations

import string
from typing import Any

import numpy as np
from gymnasium import Space
from gymnasium.spaces import Text, flatdim, flatten, flatten_space


class Unicode(Text):
    """Text of at most `max_length` characters, any character. `spaces.Text` admits only the characters of a charset."""

    def __init__(self, max_length: int, seed: int | np.random.Generator | None = None) -> None:
        super().__init__(max_length=max_length, min_length=0, charset=string.printable, seed=seed)

    def contains(self, x: Any) -> bool:
        return isinstance(x, str) and len(x) <= self.max_length

    def __repr__(self) -> str:
        return f"Unicode({self.max_length})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Unicode) and self.max_length == other.max_length


class RGBImage(Space[np.ndarray]):
    """uint8 arrays of shape (height, width, 3), each side between 1 and `max_side` pixels."""

    def __init__(self, max_side: int, seed: int | np.random.Generator | None = None) -> None:
        super().__init__(shape=None, dtype=np.uint8, seed=seed)
        self.max_side = max_side

    def sample(self, mask: Any = None, probability: Any = None) -> np.ndarray:
        height, width = self.np_random.integers(1, min(self.max_side, 64) + 1, size=2)
        return self.np_random.integers(0, 256, size=(height, width, 3), dtype=np.uint8)

    def contains(self, x: Any) -> bool:
        return (
            isinstance(x, np.ndarray)
            and x.dtype == np.uint8
            and x.ndim == 3
            and x.shape[2] == 3
            and min(x.shape[:2]) >= 1
            and max(x.shape[:2]) <= self.max_side
        )

    @property
    def is_np_flattenable(self) -> bool:
        return False

    def __repr__(self) -> str:
        return f"RGBImage({self.max_side})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RGBImage) and self.max_side == other.max_side


# Neither space has a fixed size, so flattening returns it unchanged.
@flatten_space.register(Unicode)
@flatten_space.register(RGBImage)
def _flatten_space(space: Any) -> Any:
    return space


@flatten.register(Unicode)
@flatten.register(RGBImage)
def _flatten(space: Space, x: Any) -> Any:
    return x


@flatdim.register(Unicode)
@flatdim.register(RGBImage)
def _flatdim(space: Space) -> int:
    raise ValueError(f"{space} has no fixed size and cannot be flattened")
