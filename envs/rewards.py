"""Rewards: 0.8 · accuracy + 0.2 · format, the accuracy part discounted where a tool was called (DeepEyesV2 §3, released code)."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from envs.protocol import is_well_formed
from envs.types import Task

# An over-long answer scores 0: it is a search through candidates, not an answer.
MAX_ANSWER_CHARACTERS = 300


@dataclass(frozen=True, slots=True)
class Reward:
    """Weights of the reward. `tool_discount` multiplies the accuracy part where any tool was called; 1 means that calls are
    free.
    """

    accuracy_weight: float = 0.8
    format_weight: float = 0.2
    tool_discount: float = 0.9

    async def __call__(
        self, actions: Sequence[str], answer: str | None, task: Task, tool_calls: int
    ) -> tuple[float, dict[str, float]]:
        """Score one episode from the model's own texts (`actions`), never from what tools returned.

        Returns the reward and its parts: `accuracy` and `format` in {0, 1}, `tool_discount` as applied.
        """
        accuracy = float(answer is not None and matches(answer, task.answer))
        form = float(answer is not None and all(is_well_formed(action) for action in actions))
        discount = self.tool_discount if tool_calls else 1.0
        reward = self.accuracy_weight * accuracy * discount + self.format_weight * form
        return reward, {"accuracy": accuracy, "format": form, "tool_discount": discount}


def matches(answer: str, truth: str) -> bool:
    """Exact match after normalisation; numbers match by value (relative tolerance 1e-6)."""
    if len(answer) >= MAX_ANSWER_CHARACTERS:
        return False
    answer, truth = normalise(answer), normalise(truth)
    if answer == truth:
        return True
    number, expected = _number(answer), _number(truth)
    return number is not None and expected is not None and math.isclose(number, expected, rel_tol=1e-6, abs_tol=1e-9)


def normalise(text: str) -> str:
    """Unicode-compatible form, lower case, single spaces, without surrounding quotes or a final full stop."""
    text = unicodedata.normalize("NFKC", text).casefold()
    text = re.sub(r"\s+", " ", text).strip().strip("\"'").strip()
    return text.rstrip(".").strip() if not re.fullmatch(r"[\d.]+", text) else text


def _number(text: str) -> float | None:
    if not re.fullmatch(r"[+-]?(\d{1,3}(,\d{3})+|\d+)?(\.\d*)?(e[+-]?\d+)?", text) or not re.search(r"\d", text):
        return None
    try:
        return float(text.replace(",", ""))
    except ValueError:
        return None
