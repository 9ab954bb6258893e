"""Rewards: 0.8 · accuracy + 0.2 · format, the accuracy part discounted where a tool was called (DeepEyesV2 §3, released code)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from envs.protocol import is_well_formed
from envs.scoring import is_right
from envs.types import Task

if TYPE_CHECKING:
    from envs.scoring.judge import Judge


@dataclass(frozen=True, slots=True)
class Reward:
    """Weights of the reward. `tool_discount` multiplies the accuracy part where any tool was called; 1 means that calls are
    free. `judge` is asked where a task wants one.
    """

    accuracy_weight: float = 0.8
    format_weight: float = 0.2
    tool_discount: float = 0.9
    judge: Judge | None = None

    async def __call__(
        self, actions: Sequence[str], answer: str | None, task: Task, tool_calls: int
    ) -> tuple[float, dict[str, float]]:
        """Score one episode from the model's own texts (`actions`), never from what tools returned.

        Returns the reward and its parts: `accuracy` and `format` in {0, 1}, `tool_discount` as applied. Raises InfrastructureError
        where the task wants a judge and none can be reached.
        """
        right = answer is not None and await is_right(task.question, answer, task.answer, task.scoring, self.judge)
        accuracy = float(right)
        form = float(answer is not None and all(is_well_formed(action) for action in actions))
        discount = self.tool_discount if tool_calls else 1.0
        reward = self.accuracy_weight * accuracy * discount + self.format_weight * form
        return reward, {"accuracy": accuracy, "format": form, "tool_discount": discount}
