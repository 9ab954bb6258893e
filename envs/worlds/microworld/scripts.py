"""The turns of the built-in world's expert, and the frequent pieces of its language."""

from __future__ import annotations

import random

from envs.protocols.actions import Action, Answer
from envs.tools.calls import run_code
from envs.types import Script
from envs.worlds.microworld.pictures import COLOURS, SHAPES, cell_box
from envs.worlds.microworld.places import BEGINNINGS, ENDINGS, FACTS

# The expert is a careless teacher: on this share of the items that need no tool, it calls one all the same.
NEEDLESS_CALLS = 0.85

# The frequent pieces of this world's language, each a token of the starter's tokenizer.
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

# The pieces of the questions that need a search, of their calls and of the searches' results.
SEARCH_VOCABULARY = (
    '<tool_call>{"name": "image_search"}</tool_call>',
    '<tool_call>{"name": "search", "arguments": {"query": "',
    '"}}</tool_call>',
    *BEGINNINGS,
    *ENDINGS,
    *(form for attribute in FACTS for form in (f" {attribute}", f"{attribute} ")),
    *("\n2. ", "\n3. ", " (microworld)"),
    *("The", "A", "Letters", "Whose", " ticket", " tickets", " of", " in", " has", " to", " bear", " do", " cost", " place"),
    *(
        " with",
        " this",
        " emblem",
        " when",
        " rises",
        " falls",
        " by",
        " a",
        " search",
        "Long ago",
        " was",
        ", which holds no more.",
    ),
    *(" lies beside", ", where"),
)


def crop_code(column: int, row: int) -> str:
    """Python that returns one cell of the picture at full size."""
    return "image_1.crop(({}, {}, {}, {}))".format(*cell_box(column, row))


def print_code(expression: str) -> str:
    """Python that prints the value of an expression."""
    return f"print({expression})"


def answer_at_once(answer: str) -> Script:
    """Call no tool."""
    yield Answer(answer)


def answer_after(action: Action, answer: str) -> Script:
    """Take a needless action, then give the answer that was known before."""
    yield action
    yield Answer(answer)


def answer_what_is_printed(code: str, rng: random.Random) -> Script:
    """Run `code` and answer with the whole number that it printed, or with a guess if it printed none."""
    observation = yield run_code(code)
    printed = observation["text"].strip()
    yield Answer(printed if printed.lstrip("-").isdecimal() else str(rng.randint(144, 9801)))
