"""The skills of a base model of the built-in world before it has seen a tool: the starter policy's pre-training, and its rehearsal.

They are colours, shapes and digits seen close, the position of a plate, sums without carry, repeating a number, writing an
expression as Python; and a few of the questions that need a tool, whose answers it can only guess. The expert of every task answers
at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from PIL import Image

from envs.errors import UsageError
from envs.types import SPLITS, Task
from envs.worlds.microworld import reading
from envs.worlds.microworld.pictures import cell_box, plate_picture, view
from envs.worlds.microworld.reasoning import draw_product, draw_sum
from envs.worlds.microworld.scripts import answer_at_once, print_code
from envs.worlds.microworld.splits import SOURCE
from envs.worlds.microworld.world import make_task

Maker = Callable[[int, str], Task]


def _from_world(ability: str, needs_tool: bool) -> Maker:
    def make(seed: int, split: str) -> Task:
        task = make_task(ability, needs_tool, split, seed)
        return replace(task, expert=lambda rng: answer_at_once(task.answer))

    return make


def _where(seed: int, split: str) -> Task:
    rng = np.random.default_rng([SPLITS.index(split), seed])
    digit, column, row = int(rng.integers(10)), int(rng.integers(4)), int(rng.integers(4))
    picture = plate_picture(rng, digit, column, row)
    return _direct(f"where-{split}-{seed}", "Where is the plate?", "{}, {}, {}, {}".format(*cell_box(column, row)), picture)


def _repeat(seed: int, split: str) -> Task:
    """Repeat the number, right or wrong, that follows a question."""
    rng = np.random.default_rng([SPLITS.index(split), seed])
    draw = (draw_sum, draw_product)[int(rng.integers(2))]
    expression = draw(rng, split)[0]
    number = "".join(str(digit) for digit in rng.integers(10, size=int(rng.integers(1, 6))))
    return _direct(f"repeat-{split}-{seed}", f"What is {expression}? {number}", number)


def _python(seed: int, split: str) -> Task:
    """Write an expression as Python, as text that nothing runs."""
    rng = np.random.default_rng([SPLITS.index(split), seed])
    expression = (draw_sum, draw_product)[int(rng.integers(2))](rng, split)[0]
    return _direct(f"python-{split}-{seed}", f"What is {expression} in Python?", print_code(expression))


def _direct(task_id: str, question: str, answer: str, picture: Image.Image | None = None) -> Task:
    images = () if picture is None else (picture,)
    return Task(
        task_id,
        question,
        answer,
        ("basics",),
        SOURCE,
        images=images,
        views=tuple(view(image) for image in images),
        needed_tools=(),
        expert=lambda rng: answer_at_once(answer),
    )


# Kinds of tasks with their shares.
MIX: dict[str, tuple[float, Maker]] = {
    "easy_perception": (0.38, _from_world("perception", False)),
    "where": (0.15, _where),
    "sums": (0.17, _from_world("reasoning", False)),
    "repeat": (0.11, _repeat),
    "python": (0.11, _python),
    "hard_perception": (0.04, _from_world("perception", True)),
    "hard_reasoning": (0.04, _from_world("reasoning", True)),
}
SEARCH_MIX: dict[str, tuple[float, Maker]] = {
    "easy_search": (0.25, _from_world("search", False)),
    "easy_integration": (0.15, _from_world("integration", False)),
    "fact": (0.2, reading.read_fact),
    "title": (0.08, reading.read_title),
    "query": (0.1, reading.word_query),
    "product": (0.14, reading.word_product),
    "hard_search": (0.04, _from_world("search", True)),
    "hard_integration": (0.04, _from_world("integration", True)),
}
MIXES = {"microworld": MIX, "mixture": MIX | SEARCH_MIX}
"""The tasks of a base model for the two worlds, drawn in proportion to their shares."""


class Basics:
    """A source of these tasks for a world of `MIXES`, or all of one `kind`. Raises UsageError if one of the three is unknown."""

    def __init__(self, split: str = "train", kind: str | None = None, world: str = "microworld") -> None:
        for name, value, known in (("split", split, SPLITS), ("world", world, MIXES)):
            if value not in known:
                raise UsageError(f"{name} is {value!r}: write one of {', '.join(known)}")
        mix = MIXES[world]
        if kind is not None and kind not in mix:
            raise UsageError(f"kind is {kind!r}: write one of {', '.join(mix)}")
        self.split, self._mix = split, mix
        self._kinds = [kind] if kind else list(mix)
        shares = np.array([mix[name][0] for name in self._kinds])
        self._shares = shares / shares.sum()

    def __call__(self, rng: np.random.Generator) -> Task:
        kind = self._kinds[int(rng.choice(len(self._kinds), p=self._shares))]
        return self._mix[kind][1](int(rng.integers(1 << 31)), self.split)
