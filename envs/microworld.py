"""The built-in world: questions generated from a seed, half of which need the code tool.

Perception: the colour or the shape of something large, or the digit on a plate seen close (no tool needed); the digit on a plate
too far away to read (needs a crop of the full-size picture). Both plates come with the same question: only the picture tells them
apart. Reasoning: a sum or difference without carry (no tool needed); the product of two numbers of 12 to 99 (needs code).

Train, validation and test tasks come from disjoint seeds, and sums, differences and products from disjoint operands.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np

from envs.pictures import COLOURS, SHAPES, cell_box, close_up_picture, plate_picture, shape_picture, view
from envs.types import Script, Task, UsageError

SPLITS = ("train", "validation", "test")
ABILITIES = ("perception", "reasoning")
SOURCE = "microworld"

DIGIT_QUESTION = "What digit is on the plate?"
COLOUR_QUESTION = "What colour is the shape?"
SHAPE_QUESTION = "What shape is it?"

# The expert is a careless teacher: on this share of the items that it could answer at a glance, it calls the tool all the same.
NEEDLESS_CALLS = 0.85

# The frequent pieces of this world's language, for a tokenizer that has them whole.
VOCABULARY = (
    "<code>\n```python\n",
    "\n```\n</code>",
    "<answer>",
    "</answer>",
    "print(",
    "image_1.crop((",
    *(f"{edge}, " for edge in range(0, 449, 112)),
    *(f"{edge}))" for edge in range(112, 449, 112)),
    " + ",
    " - ",
    " * ",
    "What",
    "Where",
    " colour",
    " digit",
    " shape",
    " plate",
    " is",
    " it",
    " on",
    " the",
    " in Python",
    *COLOURS,
    *SHAPES,
)


class Microworld:
    """A source of tasks: called with a random generator it draws one.

    `abilities` are drawn from in equal shares, `need` is the share of tasks that need the tool. Raises UsageError for an unknown
    split or ability.
    """

    def __init__(self, abilities: Sequence[str] = ABILITIES, split: str = "train", need: float = 0.5) -> None:
        if split not in SPLITS:
            raise UsageError(f"split is {split!r}: write one of {', '.join(SPLITS)}")
        unknown = sorted(set(abilities) - set(ABILITIES))
        if unknown or not abilities:
            raise UsageError(f"abilities has {unknown or 'nothing'}: write one or more of {', '.join(ABILITIES)}")
        if not 0 <= need <= 1:
            raise UsageError(f"need is {need}: write a share between 0 and 1")
        self.abilities, self.split, self.need = tuple(abilities), split, need

    def __call__(self, rng: np.random.Generator) -> Task:
        ability = self.abilities[int(rng.integers(len(self.abilities)))]
        return _cached_task(ability, bool(rng.random() < self.need), self.split, int(rng.integers(1 << 31)))


def make_task(ability: str, needs_tool: bool, split: str, seed: int) -> Task:
    """The task of a seed: same arguments, same task."""
    rng = np.random.default_rng([SPLITS.index(split), seed])
    maker = _MAKERS[ability, needs_tool]
    return maker(rng, split, f"{ability}-{'hard' if needs_tool else 'easy'}-{split}-{seed}")


# The rollouts of a group ask for the same task, one after another.
_cached_task = lru_cache(maxsize=256)(make_task)


def _easy_perception(rng: np.random.Generator, split: str, task_id: str) -> Task:
    kind = int(rng.integers(3))
    if kind == 2:
        digit = int(rng.integers(10))
        picture, question, answer = close_up_picture(rng, digit), DIGIT_QUESTION, str(digit)
    else:
        colour, shape = str(rng.choice(list(COLOURS))), str(rng.choice(SHAPES))
        picture = shape_picture(rng, colour, shape)
        question, answer = (COLOUR_QUESTION, colour) if kind == 0 else (SHAPE_QUESTION, shape)
    return Task(
        task_id,
        question,
        answer,
        "perception",
        SOURCE,
        images=(picture,),
        views=(view(picture),),
        needed_tools=(),
        expert=lambda rng: solve(crop_code(1, 1) if rng.random() < NEEDLESS_CALLS else None, answer),
    )


def _hard_perception(rng: np.random.Generator, split: str, task_id: str) -> Task:
    digit, column, row = int(rng.integers(10)), int(rng.integers(4)), int(rng.integers(4))
    picture = plate_picture(rng, digit, column, row)
    return Task(
        task_id,
        DIGIT_QUESTION,
        str(digit),
        "perception",
        SOURCE,
        images=(picture,),
        views=(view(picture),),
        needed_tools=("code",),
        expert=lambda rng: solve(crop_code(column, row), str(digit)),
    )


def draw_sum(rng: np.random.Generator, split: str | None) -> tuple[str, str]:
    """A sum or difference of a two-digit and a one-digit number without carry or borrow, and its value.

    Of the split's own, or, where that is None, of any.
    """
    while True:
        tens, unit, other = int(rng.integers(1, 10)), int(rng.integers(10)), int(rng.integers(1, 10))
        plus = bool(rng.integers(2))
        if not 0 <= (unit + other if plus else unit - other) <= 9:
            continue
        expression = f"{10 * tens + unit} {'+' if plus else '-'} {other}"
        if split in (None, split_of(expression)):
            return expression, str(10 * tens + (unit + other if plus else unit - other))


def draw_product(rng: np.random.Generator, split: str | None) -> tuple[str, str]:
    """A product of two numbers of 12 to 99, and its value; of the split's own, or, where that is None, of any."""
    while True:
        a, b = rng.integers(12, 100, size=2).tolist()
        # One split for both orders: 12 * 34 in training would give 34 * 12 away.
        if split in (None, split_of(f"{min(a, b)} * {max(a, b)}")):
            return f"{a} * {b}", str(a * b)


def _easy_reasoning(rng: np.random.Generator, split: str, task_id: str) -> Task:
    expression, value = draw_sum(rng, split)
    return Task(
        task_id,
        f"What is {expression}?",
        value,
        "reasoning",
        SOURCE,
        needed_tools=(),
        expert=lambda rng: solve(print_code(expression) if rng.random() < NEEDLESS_CALLS else None, value),
    )


def _hard_reasoning(rng: np.random.Generator, split: str, task_id: str) -> Task:
    expression, value = draw_product(rng, split)
    return Task(
        task_id,
        f"What is {expression}?",
        value,
        "reasoning",
        SOURCE,
        needed_tools=("code",),
        expert=lambda rng: solve(print_code(expression), None),
    )


_MAKERS: dict[tuple[str, bool], Callable[[np.random.Generator, str, str], Task]] = {
    ("perception", False): _easy_perception,
    ("perception", True): _hard_perception,
    ("reasoning", False): _easy_reasoning,
    ("reasoning", True): _hard_reasoning,
}


def split_of(expression: str) -> str:
    """The split that an expression belongs to: 70 % train, 10 % validation, 20 % test, by checksum."""
    slot = zlib.crc32(expression.encode()) % 10
    return "train" if slot < 7 else "validation" if slot < 8 else "test"


def crop_code(column: int, row: int) -> str:
    """Python that returns one cell of the picture at full size."""
    return "image_1.crop(({}, {}, {}, {}))".format(*cell_box(column, row))


def print_code(expression: str) -> str:
    """Python that prints the value of an expression."""
    return f"print({expression})"


def code_action(code: str) -> str:
    """The text of a turn that runs `code`."""
    return f"<code>\n```python\n{code}\n```\n</code>"


def answer_action(answer: str) -> str:
    """The text of a turn that answers."""
    return f"<answer>{answer}</answer>"


def solve(code: str | None, answer: str | None) -> Script:
    """Run `code`, if any, then answer: with `answer`, or with what the code printed where that is None."""
    printed = ""
    if code is not None:
        observation = yield code_action(code)
        printed = observation["text"].strip()
    yield answer_action(printed if answer is None else answer)
