"""Search: a fact that the question states (no tool needed) or only the knowledge base has (text search); the place whose emblem a
picture shows (image search).
"""

from __future__ import annotations

import random
import re

import numpy as np

from envs.protocols.actions import Answer
from envs.tools.calls import search_image, search_texts
from envs.types import Observation, Script, Task
from envs.worlds.microworld.emblems import emblem
from envs.worlds.microworld.pictures import pictured
from envs.worlds.microworld.places import FACTS, Place, emblem_of, invented_value, places_of
from envs.worlds.microworld.scripts import NEEDLESS_CALLS, answer_after, answer_at_once
from envs.worlds.microworld.splits import SOURCE

EMBLEM_QUESTION = "Whose emblem is it?"


def fact_question(attribute: str, name: str) -> str:
    """The question for a fact of a place."""
    return f"What is the {attribute} of {name}?"


def draw_place(rng: np.random.Generator, split: str) -> Place:
    """A place of the split."""
    known = places_of(split)
    return known[int(rng.integers(len(known)))]


def easy(rng: np.random.Generator, split: str, task_id: str) -> Task:
    """A fact that the question itself states; its value is not that of the knowledge base."""
    attribute, place = str(rng.choice(list(FACTS))), draw_place(rng, split)
    answer = invented_value(rng, attribute)
    question = f"{FACTS[attribute][0].format(name=place.name, value=answer)} {fact_question(attribute, place.name)}"

    def expert(rng: random.Random) -> Script:
        if rng.random() < NEEDLESS_CALLS:
            return answer_after(search_texts(f"{attribute} {place.name}"), answer)
        return answer_at_once(answer)

    return Task(task_id, question, answer, ("search",), SOURCE, needed_tools=(), expert=expert)


def hard(rng: np.random.Generator, split: str, task_id: str) -> Task:
    """A fact from the knowledge base, or a name from the gallery."""
    place = draw_place(rng, split)
    if rng.integers(2):
        return _emblem(place, task_id)
    attribute = str(rng.choice(list(FACTS)))

    def expert(rng: random.Random) -> Script:
        observation = yield search_texts(f"{attribute} {place.name}")
        yield Answer(read_fact(observation, place.name, attribute) or _guess(attribute, rng))

    return Task(
        task_id,
        fact_question(attribute, place.name),
        place.fact(attribute),
        ("search",),
        SOURCE,
        needed_tools=("text_search",),
        expert=expert,
    )


def _emblem(place: Place, task_id: str) -> Task:
    picture = emblem(emblem_of(place))

    def expert(rng: random.Random) -> Script:
        observation = yield search_image()
        yield Answer(read_title(observation) or rng.choice(places_of(place.split)).name)

    return Task(
        task_id,
        EMBLEM_QUESTION,
        place.name,
        ("search",),
        SOURCE,
        **pictured(picture),
        needed_tools=("image_search",),
        expert=expert,
    )


def read_fact(observation: Observation, name: str, attribute: str) -> str | None:
    """The value in the first result that states the fact in one of its phrasings; None if none does."""
    lines = observation["text"].splitlines()
    for line in lines:
        for phrasing in FACTS[attribute]:
            pattern = re.escape(phrasing).replace(re.escape("{name}"), re.escape(name)).replace(re.escape("{value}"), r"(\d+)")
            if match := re.fullmatch(pattern, line.strip()):
                return match.group(1)
    return None


def read_title(observation: Observation) -> str | None:
    """The title of the first result; None if there is none."""
    match = re.search(r"^1\. (\w+)", observation["text"], re.MULTILINE)
    return match.group(1) if match else None


def _guess(attribute: str, rng: random.Random) -> str:
    return str(rng.randint(1000, 9999) if attribute == "code" else rng.randint(12, 99))
