"""How far apart the log-probabilities of sampler and learner may be before one of them is wrong."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far sampler and learner may be apart, in nats: on average over tokens, and at any one. `moves` is the least that a
    policy that sees moves by when its pictures are replaced."""

    mean: float
    largest: float
    moves: float

    def __str__(self) -> str:
        most = "" if math.isinf(self.largest) else f" and {self.largest:.0e} at most"
        return f"{self.mean:.0e} on average{most}"


TOLERANCES = {"float32": Tolerance(1e-4, 1e-3, 1e-3), "16 bits": Tolerance(3e-2, math.inf, 3e-2)}
"""By the coarser of the two sides' arithmetic. In 16 bits single tokens may be far apart, however right both sides are."""


def arithmetic(sampler: str, learner: str) -> str:
    """The key of `TOLERANCES` for these types of torch's, as in "bfloat16"."""
    return "float32" if sampler == learner == "float32" else "16 bits"


class GapAlarm:
    """Rings once, as soon as sampler and learner are further apart on average than their arithmetic explains."""

    def __init__(self, arithmetic: str) -> None:
        """`arithmetic` is a key of `TOLERANCES`."""
        self._arithmetic, self._rang = arithmetic, False

    def take(self, gap: float | None) -> str | None:
        """Take in a step's mean difference in nats, None if it was not measured. Returns what is wrong if it rings now."""
        allowed = TOLERANCES[self._arithmetic].mean
        if self._rang or gap is None or gap <= allowed:
            return None
        self._rang = True
        return (
            f"sampler and learner disagree: their log-probabilities are {gap:.1e} nats apart on average, "
            f"{allowed:.0e} is usual at most in {self._arithmetic}"
        )
