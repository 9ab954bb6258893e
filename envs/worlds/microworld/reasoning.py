"""Reasoning: a sum or difference without carry (no tool needed); the product of two numbers of 12 to 99 (needs code)."""

from __future__ import annotations

import random

import numpy as np

from envs.tools.calls import run_code
from envs.types import Script, Task
from envs.worlds.microworld.scripts import NEEDLESS_CALLS, answer_after, answer_at_once, answer_what_is_printed, print_code
from envs.worlds.microworld.splits import SOURCE, split_of


def draw_sum(rng: np.random.Generator, split: str | None) -> tuple[str, str]:
    """A sum or difference of a two-digit and a one-digit number without carry or borrow, and its value.

    It belongs to `split`, or to any if that is None.
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
    """A product of two numbers of 12 to 99, and its value; it belongs to `split`, or to any if that is None."""
    while True:
        a, b = rng.integers(12, 100, size=2).tolist()
        # One split for both orders: 12 * 34 in training would reveal 34 * 12.
        if split in (None, split_of(f"{min(a, b)} * {max(a, b)}")):
            return f"{a} * {b}", str(a * b)


def easy(rng: np.random.Generator, split: str, task_id: str) -> Task:
    """A sum or difference that needs no tool."""
    expression, value = draw_sum(rng, split)

    def expert(rng: random.Random) -> Script:
        if rng.random() < NEEDLESS_CALLS:
            return answer_after(run_code(print_code(expression)), value)
        return answer_at_once(value)

    return Task(task_id, f"What is {expression}?", value, ("reasoning",), SOURCE, needed_tools=(), expert=expert)


def hard(rng: np.random.Generator, split: str, task_id: str) -> Task:
    """A product, which needs code."""
    expression, value = draw_product(rng, split)
    return Task(
        task_id,
        f"What is {expression}?",
        value,
        ("reasoning",),
        SOURCE,
        needed_tools=("code",),
        expert=lambda rng: answer_what_is_printed(print_code(expression), rng),
    )
