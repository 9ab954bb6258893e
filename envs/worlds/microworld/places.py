"""The places of the built-in world: invented names, facts that only documents state, and an emblem each.

Names combine a piece of each of two short lists, so that every name has many that differ in one half only. A document states one
fact of one place in one of several phrasings. Difficulty adds misleading documents: from 2 on, some that name a place beside the
same fact of a neighbour; at 3, also earlier values that no longer hold.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np

from envs.errors import UsageError
from envs.search.types import Document, Picture
from envs.types import SPLITS
from envs.worlds.microworld.emblems import emblem
from envs.worlds.microworld.splits import SOURCE, split_of

DIFFICULTIES = (1, 2, 3)
BEGINNINGS = ("Nel", "Tor", "Bri", "Cas", "Dro", "Fen", "Gal", "Hol", "Ish", "Jor", "Kam", "Lun", "Mer", "Osk", "Pel", "Qua")
ENDINGS = (
    "dova",
    "burn",
    "mark",
    "lind",
    "stow",
    "wick",
    "gate",
    "fell",
    "holm",
    "crest",
    "moor",
    "ria",
    "zan",
    "thos",
    "vik",
    "neth",
)

# Attribute: phrasings of a fact, {name} and {value}.
FACTS = {
    "code": ("The code of {name} is {value}.", "{name} has the code {value}.", "Letters to {name} bear the code {value}."),
    "price": ("The price in {name} is {value}.", "A ticket in {name} has the price {value}.", "{value} is the price in {name}."),
}
_MISLEADING = "{name} lies beside {other}, where the {attribute} is {value}."
_OUTDATED = "Long ago the {attribute} of {name} was {value}, which holds no more."


@dataclass(frozen=True, slots=True)
class Place:
    """A place. `code` has four digits, `price` two."""

    name: str
    code: str
    price: str

    @property
    def split(self) -> str:
        """The only split whose questions are about this place."""
        return split_of(self.name)

    def fact(self, attribute: str) -> str:
        """The value of "code" or "price"."""
        return self.code if attribute == "code" else self.price


def invented_value(rng: np.random.Generator, attribute: str) -> str:
    """A value that a fact may have: "code" four digits, "price" two."""
    low, high = (1000, 10000) if attribute == "code" else (12, 100)
    return str(rng.integers(low, high))


@lru_cache(maxsize=1)
def places() -> tuple[Place, ...]:
    """All places, the same in every process."""
    rng = np.random.default_rng(7)
    names = [beginning + ending for beginning, ending in product(BEGINNINGS, ENDINGS)]
    return tuple(Place(name, invented_value(rng, "code"), invented_value(rng, "price")) for name in names)


@lru_cache(maxsize=len(SPLITS))
def places_of(split: str) -> tuple[Place, ...]:
    """The places that the questions of a split are about."""
    return tuple(place for place in places() if place.split == split)


def documents(difficulty: int = 1) -> Iterator[Document]:
    """The knowledge base: every fact of every place once, and misleading documents. Raises UsageError for an unknown difficulty."""
    if difficulty not in DIFFICULTIES:
        raise UsageError(f"difficulty is {difficulty}: write one of {', '.join(map(str, DIFFICULTIES))}")
    rng = np.random.default_rng([11, difficulty])
    known = places()
    for place in known:
        for attribute, phrasings in FACTS.items():
            text = str(rng.choice(phrasings)).format(name=place.name, value=place.fact(attribute))
            yield Document(place.name, text, SOURCE)
            if difficulty >= 2:
                other = known[int(rng.integers(len(known)))]
                misleading = _MISLEADING.format(name=place.name, other=other.name, attribute=attribute, value=other.fact(attribute))
                yield Document(other.name, misleading, SOURCE)
            if difficulty >= 3:
                outdated = _OUTDATED.format(name=place.name, attribute=attribute, value=invented_value(rng, attribute))
                yield Document(place.name, outdated, SOURCE)


def gallery() -> Iterator[Picture]:
    """The emblem of every place, under its name."""
    for number, place in enumerate(places()):
        yield Picture(place.name, emblem(number), SOURCE)


def emblem_of(place: Place) -> int:
    """The number that `emblem` draws for the place."""
    return places().index(place)
