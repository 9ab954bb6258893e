"""What a base model of the built-in world knows before it has seen a tool: the starter policy's pre-training, and its rehearsal.

Colours, shapes and digits seen close, where a plate is, sums without carry, numbers repeated, expressions written as Python; and
a few of the questions that need a tool, whose answers it can only guess. The expert of every task answers at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from PIL import Image

from envs.microworld.pictures import cell_box, plate_picture, view
from envs.microworld.reasoning import draw_product, draw_sum
from envs.microworld.scripts import answer_at_once, print_code
from envs.microworld.splits import SOURCE, SPLITS
from envs.microworld.world import make_task
from envs.types import Task, UsageError

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
    """A number that somebody states in answer to a question, right or wrong."""
    rng = np.random.default_rng([SPLITS.index(split), seed])
    draw = (draw_sum, draw_product)[int(rng.integers(2))]
    expression = draw(rng, split)[0]
    number = "".join(str(digit) for digit in rng.integers(10, size=int(rng.integers(1, 6))))
    return _direct(f"repeat-{split}-{seed}", f"What is {expression}? {number}", number)


def _python(seed: int, split: str) -> Task:
    """An expression to write as Python: text, which nothing runs."""
    rng = np.random.default_rng([SPLITS.index(split), seed])
    expression = (draw_sum, draw_product)[int(rng.integers(2))](rng, split)[0]
    return _direct(f"python-{split}-{seed}", f"What is {expression} in Python?", print_code(expression))


def _direct(task_id: str, question: str, answer: str, picture: Image.Image | None = None) -> Task:
    images = () if picture is None else (picture,)
    return Task(
        task_id,
        question,
        answer,
        "basics",
        SOURCE,
        images=images,
        views=tuple(view(image) for image in images),
        needed_tools=(),
        expert=lambda rng: answer_at_once(answer),
    )


# Each kind with its share.
MIX: dict[str, tuple[float, Maker]] = {
    "easy_perception": (0.38, _from_world("perception", False)),
    "where": (0.15, _where),
    "sums": (0.17, _from_world("reasoning", False)),
    "repeat": (0.11, _repeat),
    "python": (0.11, _python),
    "hard_perception": (0.04, _from_world("perception", True)),
    "hard_reasoning": (0.04, _from_world("reasoning", True)),
}


class Basics:
    """A source of such tasks in the shares of `MIX`, or all of one `kind`. Raises UsageError for an unknown split or kind."""

    def __init__(self, split: str = "train", kind: str | None = None) -> None:
        if split not in SPLITS:
            raise UsageError(f"split is {split!r}: write one of {', '.join(SPLITS)}")
        if kind is not None and kind not in MIX:
            raise UsageError(f"kind is {kind!r}: write one of {', '.join(MIX)}")
        self.split = split
        self._kinds = [kind] if kind else list(MIX)
        shares = np.array([MIX[name][0] for name in self._kinds])
        self._shares = shares / shares.sum()

    def __call__(self, rng: np.random.Generator) -> Task:
        kind = self._kinds[int(rng.choice(len(self._kinds), p=self._shares))]
        return MIX[kind][1](int(rng.integers(1 << 31)), self.split)
