"""The paper's rule: 0.8 · accuracy + 0.2 · format, the accuracy discounted if a tool was called (DeepEyesV2 §3, released code)."""

from __future__ import annotations

from dataclasses import dataclass

from envs.rewards.parts import accuracy, format
from envs.types import Outcome


@dataclass(frozen=True, slots=True)
class DeepEyesReward:
    """The default. `tool_discount` multiplies the accuracy part if any tool was called; 1 means that calls are free."""

    accuracy_weight: float = 0.8
    format_weight: float = 0.2
    tool_discount: float = 0.9

    @property
    def part_names(self) -> frozenset[str]:
        """The names of the parts."""
        return frozenset({"accuracy", "format", "tool_discount"})

    async def __call__(self, outcome: Outcome) -> tuple[float, dict[str, float]]:
        """The reward and its parts: `format`, and `accuracy` if there is a truth, in {0, 1}; `tool_discount` as applied."""
        discount = self.tool_discount if outcome.tool_calls else 1.0
        known = {} if outcome.correct is None else {"accuracy": accuracy(outcome)}
        parts = known | {"format": format(outcome), "tool_discount": discount}
        return self.accuracy_weight * accuracy(outcome) * discount + self.format_weight * parts["format"], parts
