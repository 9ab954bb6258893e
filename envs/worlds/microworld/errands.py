"""Errands: what tickets cost, in text alone, for policies that read no pictures.

With tools: prices that only the knowledge base has, of one place or of two, and a sum of products, which needs code. Without a
tool: a price that the question states, or a small change of it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np

from envs.protocols.actions import Answer
from envs.tools.calls import search_texts
from envs.types import Script, Task
from envs.worlds.microworld.places import FACTS, Place
from envs.worlds.microworld.reasoning import draw_sum
from envs.worlds.microworld.scripts import answer_after, answer_at_once, answer_what_is_printed, print_code
from envs.worlds.microworld.search import draw_place, fact_question, read_fact
from envs.worlds.microworld.splits import SOURCE

ABILITIES = ("search", "reasoning")
NEEDLESS_CALLS = 0.5
"""On this share of the items that need no tool the expert looks the place up all the same."""


def easy(rng: np.random.Generator, split: str, task_id: str) -> Task:
    """A stated price, or what it is after a small change."""
    place = draw_place(rng, split)
    expression, changed = draw_sum(rng, split)
    price, sign, change = expression.split()
    stated = FACTS["price"][0].format(name=place.name, value=price)
    if rng.integers(2):
        question, answer = f"{stated} {fact_question('price', place.name)}", price
    else:
        question, answer = f"{stated} What is it when it {'rises' if sign == '+' else 'falls'} by {change}?", changed

    def expert(rng: random.Random) -> Script:
        if rng.random() < NEEDLESS_CALLS:
            return answer_after(search_texts(f"price {place.name}"), answer)
        return answer_at_once(answer)

    return Task(task_id, question, answer, ABILITIES, SOURCE, needed_tools=(), expert=expert)


def hard(rng: np.random.Generator, split: str, task_id: str) -> Task:
    """Look up the price of one place or of two, multiply, and add."""
    places = [draw_place(rng, split) for _ in range(int(rng.integers(1, 3)))]
    counts = rng.integers(12, 100, size=len(places)).tolist()
    wanted = [f"{count} tickets in {place.name}" for count, place in zip(counts, places, strict=True)]
    together = " together" if len(places) > 1 else ""
    return Task(
        task_id,
        f"What do {' and '.join(wanted)} cost{together}?",
        str(sum(count * int(place.price) for count, place in zip(counts, places, strict=True))),
        ABILITIES,
        SOURCE,
        needed_tools=("text_search", "code"),
        expert=lambda rng: _look_up_and_add(places, counts, rng),
    )


def _look_up_and_add(places: Sequence[Place], counts: Sequence[int], rng: random.Random) -> Script:
    prices = []
    for place in places:
        observation = yield search_texts(f"price {place.name}")
        prices.append(read_fact(observation, place.name, "price"))
    if None in prices:
        yield Answer(str(rng.randint(144, 9801)))
        return
    yield from answer_what_is_printed(
        print_code(" + ".join(f"{count} * {price}" for count, price in zip(counts, prices, strict=True))), rng
    )
