"""Reward parts: each is a function, sync or async, of one `Outcome` to a number. Its name is the function's."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from envs.types import Outcome

Part = Callable[[Outcome], float | Awaitable[float]]


def accuracy(outcome: Outcome) -> float:
    """1 if the answer is right, else 0."""
    return float(bool(outcome.correct))


def format(outcome: Outcome) -> float:
    """1 if each turn was exactly one action and the last one an answer, else 0."""
    return float(outcome.well_formed)


PARTS: Mapping[str, Part] = {"accuracy": accuracy, "format": format}
"""The built-in parts by name."""
