"""The skills of a base model with search results that it is shown, before it has searched itself: read a fact or a title, write a
query, write a product of numbers that it has read as Python. The values are never those of the knowledge base.
"""

from __future__ import annotations

import numpy as np

from envs.search.types import Match, Passage
from envs.tools import image_search, text_search
from envs.types import SPLITS, Task
from envs.worlds.microworld.emblems import emblem
from envs.worlds.microworld.integration import tickets_question
from envs.worlds.microworld.pictures import pictured
from envs.worlds.microworld.places import FACTS, Place, invented_value, places
from envs.worlds.microworld.scripts import answer_at_once, print_code
from envs.worlds.microworld.search import EMBLEM_QUESTION, draw_place, fact_question
from envs.worlds.microworld.splits import SOURCE

_RESULTS = 3


def read_fact(seed: int, split: str) -> Task:
    """A fact that the first of three passages states."""
    rng = _generator(seed, split)
    place, attribute = draw_place(rng, split), _attribute(rng)
    shown, value = _passages(rng, split, place, attribute)
    return _task(f"fact-{split}-{seed}", f"{fact_question(attribute, place.name)} {shown}", value)


def read_title(seed: int, split: str) -> Task:
    """The first of three titles, beside an emblem that is another place's."""
    rng = _generator(seed, split)
    place = draw_place(rng, split)
    return _task(f"title-{split}-{seed}", f"{EMBLEM_QUESTION} {_titles(rng, split, place)}", place.name, rng)


def word_query(seed: int, split: str) -> Task:
    """The query for a place that the question names or that is first in a list."""
    rng = _generator(seed, split)
    place, attribute = draw_place(rng, split), _attribute(rng)
    if rng.integers(2):
        return _task(f"query-{split}-{seed}", f"{fact_question(attribute, place.name)} in a search", f"{attribute} {place.name}")
    question = f"{tickets_question(_number(rng))} {_titles(rng, split, place)} in a search"
    return _task(f"query-{split}-{seed}", question, f"price {place.name}", rng)


def word_product(seed: int, split: str) -> Task:
    """Tickets times their price, which a passage states, written as Python that nothing runs."""
    rng = _generator(seed, split)
    place, count = draw_place(rng, split), _number(rng)
    shown, price = _passages(rng, split, place, "price")
    question = f"{tickets_question(count)} {shown} in Python"
    return _task(f"product-{split}-{seed}", question, print_code(f"{count} * {price}"), rng)


def _passages(rng: np.random.Generator, split: str, place: Place, attribute: str) -> tuple[str, str]:
    """Three passages, of which the first states the fact of the place, and the value in it."""
    value = invented_value(rng, attribute)
    stated = [_passage(rng, place, attribute, value)]
    while len(stated) < _RESULTS:
        other = _attribute(rng)
        stated.append(_passage(rng, draw_place(rng, split), other, invented_value(rng, other)))
    return text_search.numbered(stated), value


def _passage(rng: np.random.Generator, place: Place, attribute: str, value: str) -> Passage:
    return Passage(place.name, SOURCE, str(rng.choice(FACTS[attribute])).format(name=place.name, value=value))


def _titles(rng: np.random.Generator, split: str, first: Place) -> str:
    results = [first, *(draw_place(rng, split) for _ in range(_RESULTS - 1))]
    return image_search.numbered([Match(place.name, SOURCE) for place in results])


def _task(task_id: str, question: str, answer: str, emblem_rng: np.random.Generator | None = None) -> Task:
    picture = {} if emblem_rng is None else pictured(emblem(int(emblem_rng.integers(len(places())))))
    return Task(
        task_id, question, answer, ("basics",), SOURCE, **picture, needed_tools=(), expert=lambda rng: answer_at_once(answer)
    )


def _generator(seed: int, split: str) -> np.random.Generator:
    return np.random.default_rng([SPLITS.index(split), seed])


def _attribute(rng: np.random.Generator) -> str:
    return str(rng.choice(list(FACTS)))


def _number(rng: np.random.Generator) -> int:
    return int(rng.integers(12, 100))
