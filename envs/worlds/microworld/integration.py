"""Integration: perception, search and reasoning at once.

With tools: an emblem, whose name only the image search knows; the price there, which only the knowledge base has; and a product,
which needs code. Without a tool: a price that the question states, and a sum.
"""

from __future__ import annotations

import random

import numpy as np

from envs.protocols.actions import Answer
from envs.tools.calls import search_image, search_texts
from envs.types import Script, Task
from envs.worlds.microworld.emblems import emblem
from envs.worlds.microworld.pictures import pictured
from envs.worlds.microworld.places import FACTS, emblem_of
from envs.worlds.microworld.reasoning import draw_sum
from envs.worlds.microworld.scripts import NEEDLESS_CALLS, answer_after, answer_at_once, answer_what_is_printed, print_code
from envs.worlds.microworld.search import draw_place, read_fact, read_title
from envs.worlds.microworld.splits import SOURCE

TOOLS = ("image_search", "text_search", "code")


def tickets_question(count: int) -> str:
    """The question for `count` times a price."""
    return f"What do {count} tickets cost in the place with this emblem?"


def easy(rng: np.random.Generator, split: str, task_id: str) -> Task:
    """A stated price and a small change of it; the picture, an emblem, is irrelevant."""
    place = draw_place(rng, split)
    picture = emblem(emblem_of(place))
    expression, value = draw_sum(rng, split)
    price, sign, change = expression.split()
    change_words = f"rises by {change}" if sign == "+" else f"falls by {change}"
    question = f"{FACTS['price'][0].format(name=place.name, value=price)} What is it when it {change_words}?"

    def expert(rng: random.Random) -> Script:
        if rng.random() < NEEDLESS_CALLS:
            return answer_after(search_image(), value)
        return answer_at_once(value)

    return Task(
        task_id,
        question,
        value,
        ("integration",),
        SOURCE,
        **pictured(picture),
        needed_tools=(),
        expert=expert,
    )


def hard(rng: np.random.Generator, split: str, task_id: str) -> Task:
    """Name the emblem, look the price up, multiply."""
    place, count = draw_place(rng, split), int(rng.integers(12, 100))
    picture = emblem(emblem_of(place))

    def expert(rng: random.Random) -> Script:
        observation = yield search_image()
        name = read_title(observation)
        observation = yield search_texts(f"price {name}")
        price = read_fact(observation, name, "price") if name else None
        if price is None:
            yield Answer(str(rng.randint(144, 9801)))
        else:
            yield from answer_what_is_printed(print_code(f"{count} * {price}"), rng)

    return Task(
        task_id,
        tickets_question(count),
        str(count * int(place.price)),
        ("integration",),
        SOURCE,
        **pictured(picture),
        needed_tools=TOOLS,
        expert=expert,
    )
