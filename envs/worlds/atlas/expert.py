"""The scripted expert of Atlas: it sees what a model sees, and learns everything else through the tools.

A plan has, as far as a question needs them:

- `subjects`: the countries it is about, each `{"name": …}` if the question names it, `{"image": N}` for the flag in an image, or
  `{"hanging": [row, column]}` for the flag that hangs in a cell of the first image;
- `figures`: pairs of a subject's number and a field to look up; `cards`: cells of the first image with a digit each;
- `answer`: `say` (the text of `say`), `name`, `title` (of the first image), `digits`, `text` (the field, as `read` reads it),
  `value` (of `expression`, in which `{0}` is the first figure and `{card}` the number on the cards), `order` and `most` (the
  subjects by `expression` of each).
"""

from __future__ import annotations

import random
import re
from collections.abc import Generator
from typing import Any

import numpy as np

from envs.protocols.actions import Action, Answer
from envs.tools.calls import run_code, search_image, search_texts
from envs.types import Observation, Script
from envs.worlds.atlas.cards import cell_box, framed_box, read_card
from envs.worlds.atlas.facts import borders, figure, highest_point
from envs.worlds.atlas.types import Plan

PROFILES = "CIA World Factbook"
FLAG_TITLE = "Flag of "
UNKNOWN = "unknown"
AS_IT_IS = "{0}"
"""The expression for the figure itself, for which nothing has to be computed."""

Finding = Generator[Action, Observation, Any]
"""A script that takes actions and returns a fact; None if the tools did not give it."""


def expert(plan: Plan) -> Any:
    """The script that solves a question by its plan."""
    return lambda rng: _script(plan, rng)


def _script(plan: Plan, rng: random.Random) -> Script:
    how = plan["answer"]
    if how == "say":
        yield Answer(plan["say"])
        return
    found = yield from _find(plan, how)
    yield Answer(UNKNOWN if found is None else str(found))


def _find(plan: Plan, how: str) -> Finding:
    if how == "title":
        return (yield from _title(1))
    card = yield from _digits(plan.get("cards", ()))
    if how == "digits":
        return card
    names = []
    for subject in plan.get("subjects", ()):
        names.append((yield from _subject(subject)))
    if None in names or card is None:
        return None
    if how == "name":
        return names[0]
    texts = []
    for subject, field in plan.get("figures", ()):
        texts.append((yield from _look_up(names[subject], field)))
    if None in texts:
        return None
    if how == "text":
        return read(plan["read"], texts[0])
    values = [figure(field, text) for (_, field), text in zip(plan.get("figures", ()), texts, strict=True)]
    if None in values:
        return None
    if how == "value" and plan["expression"] == AS_IT_IS:
        return values[0]
    if how == "value":
        return (yield from _compute(plan["expression"].format(*values, card=card)))
    numbers = values
    if plan["expression"] != AS_IT_IS:
        each = len(values) // len(names)  # as many figures for each subject as the expression has places
        expressions = [plan["expression"].format(*values[index * each : (index + 1) * each]) for index in range(len(names))]
        printed = yield from _compute(f"[{', '.join(expressions)}]")
        numbers = [float(part) for part in re.findall(r"-?[\d.]+(?:e[+-]?\d+)?", printed or "")]
    if len(numbers) != len(names):
        return None
    ranked = [name for _, name in sorted(zip(numbers, names, strict=True), reverse=True)]
    return ranked[0] if how == "most" else ", ".join(ranked)


def read(how: str, text: str) -> str | None:
    """The part of a field's text that a question asks for: all, the highest point's name or metres, or a border's length."""
    if how == "all":
        return text
    if how in ("point", "metres"):
        found = highest_point(text)
        return None if found is None else str(found[how == "metres"])
    lengths = borders(text) or {}
    length = lengths.get(how.removeprefix("border with "))
    return None if length is None else str(length)


def _subject(subject: Plan) -> Finding:
    if "name" in subject:
        return subject["name"]
    if "image" in subject:
        title = yield from _title(subject["image"])
    else:
        column, row = subject["hanging"]
        left, top, *_ = cell_box(column, row)
        cell = yield from _crop(cell_box(column, row))
        box = None if cell is None else framed_box(cell)
        if box is None:
            return None
        if (yield from _crop((left + box[0], top + box[1], left + box[2], top + box[3]))) is None:
            return None
        title = yield from _title(3)  # the question's image, the cell, the flag
    return None if title is None or not title.startswith(FLAG_TITLE) else title.removeprefix(FLAG_TITLE)


def _digits(cells: Any) -> Finding:
    number = ""
    for column, row in cells:
        cell = yield from _crop(cell_box(column, row))
        box = None if cell is None else framed_box(cell)
        if cell is None or box is None:
            return None
        number += str(read_card(cell[box[1] : box[3], box[0] : box[2]]))
    return number


def _crop(box: tuple[int, int, int, int]) -> Finding:
    observation = yield run_code(f"image_1.crop({box})")
    images = observation["images"]
    return np.asarray(images[0]) if images else None


def _title(number: int) -> Finding:
    observation = yield search_image(number)
    match = re.search(r"^1\. (.+?)(?: \([^()]*\))?$", observation["text"], re.MULTILINE)
    return match.group(1) if match else None


def _look_up(name: str, field: str) -> Finding:
    title = f"{name}: {field}"
    observation = yield search_texts(f'"{title}"')
    match = re.search(rf"^\d+\. {re.escape(title)} \({PROFILES}\)\n(.*)$", observation["text"], re.MULTILINE)
    return match.group(1) if match else None


def _compute(expression: str) -> Finding:
    observation = yield run_code(f"print({expression})")
    printed = observation["text"].strip()
    return printed if re.fullmatch(r"\[?-?[\d.].*", printed) else None
