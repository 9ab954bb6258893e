"""What became of the episodes of a training run that say nothing about the model: counted in each step, and named by their rows."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Protocol

log = logging.getLogger(__name__)

_NAMED = 10


class Outcome(Protocol):
    """What is asked of an episode, or of a summary of one; the names mean what they mean in a `Trajectory`."""

    @property
    def failed(self) -> bool: ...

    @property
    def unplayed(self) -> bool: ...

    @property
    def cut(self) -> str | None: ...

    @property
    def cut_before(self) -> int: ...

    @property
    def error(self) -> str | None: ...


def outcome_metrics(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """How many episodes of a step are not learned from, by the reason; `repeated_after_deadline` counts attempts, not episodes."""
    return {
        "rollout/infrastructure_failures": sum(outcome.failed for outcome in outcomes),
        "rollout/unplayed": sum(outcome.unplayed for outcome in outcomes),
        "rollout/cut_by_deadline": sum(outcome.cut is not None for outcome in outcomes),
        "rollout/repeated_after_deadline": sum(outcome.cut_before for outcome in outcomes),
    }


class DroppedRows:
    """The questions of a run that could not be put to the policy, each once, by what was wrong with it, which names its row."""

    def __init__(self, known: Iterable[str] = ()) -> None:
        self._reasons = dict.fromkeys(known)

    def take(self, outcomes: Iterable[Outcome]) -> None:
        """Take the episodes of a step in; a question that is new among the dropped ones is logged."""
        for outcome in outcomes:
            if outcome.unplayed and outcome.error is not None and outcome.error not in self._reasons:
                log.warning("dropped: %s", outcome.error)
                self._reasons[outcome.error] = None

    def __len__(self) -> int:
        return len(self._reasons)

    def state(self) -> list[str]:
        """What a run that goes on makes another of these with."""
        return list(self._reasons)

    def __str__(self) -> str:
        named = "; ".join([*self._reasons][:_NAMED])
        more = f"; and {len(self) - _NAMED} more" if len(self) > _NAMED else ""
        return f"{len(self)} questions were dropped: {named}{more}" if self._reasons else "no question was dropped"
