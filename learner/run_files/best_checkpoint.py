"""Which checkpoint of RL was best by a metric of its steps."""

from __future__ import annotations

from difflib import get_close_matches
from statistics import fmean
from typing import Any

from envs.errors import UsageError


class BestCheckpoint:
    """Ranks checkpoints by the mean of `metric` over the steps since the checkpoint before; the larger the better.

    A single step's reward says little: it is the mean over one batch of tasks. Without a metric no checkpoint is best.
    """

    def __init__(self, metric: str | None) -> None:
        self.metric = metric
        self.value = float("-inf")
        self.steps: tuple[int, ...] = ()
        """The step of the best checkpoint, if there is one."""
        self._since: list[float] = []
        self._known = False

    def add(self, metrics: dict[str, float]) -> None:
        """Take in the metrics of one step. Raises UsageError if it is the first and has no such metric: then the name is wrong."""
        if self.metric in metrics:
            self._since.append(metrics[self.metric])
            self._known = True
        elif self.metric is not None and not self._known:
            near = get_close_matches(self.metric, metrics, n=1, cutoff=0.0)[0]
            raise UsageError(f"checkpoint.best={self.metric}: the first step has no such metric; did you mean {near}?")

    def rank(self, step: int) -> None:
        """Compare the checkpoint that is written after `step` steps with the best one. Of equal ones the earlier stays."""
        if self._since and (value := fmean(self._since)) > self.value:
            self.value, self.steps = value, (step,)
        self._since = []

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of this."""
        return {"metric": self.metric, "value": self.value if self.steps else None, "steps": list(self.steps)}

    def load_state(self, state: dict[str, Any] | None) -> None:
        """Go on from `state`; of another metric, nothing is known yet."""
        if state and state["metric"] == self.metric and state["steps"]:
            self.value, self.steps, self._known = state["value"], tuple(state["steps"]), True
