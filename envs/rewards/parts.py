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


def call_bonus(outcome: Outcome) -> float:
    """1 if a tool was called, whatever came of it, else 0: the bonus of DeepEyesV2's pilot study (arXiv:2511.05271, §3.2).

    Any call earns it: one block of comments a question is enough, and is what the paper saw.
    """
    return float(bool(outcome.tool_calls))


def call_if_right(outcome: Outcome) -> float:
    """1 if the answer is right and a tool was called, else 0: the conditional bonus of DeepEyes (arXiv:2505.14362).

    An empty call before an answer that was known anyway earns it as well.
    """
    return accuracy(outcome) * call_bonus(outcome)


PARTS: Mapping[str, Part] = {part.__name__: part for part in (accuracy, format, call_bonus, call_if_right)}
"""The built-in parts by name."""
