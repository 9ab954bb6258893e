"""What the name of a trajectory file says: the stage, the step, and what was taken away in an ablation."""

from __future__ import annotations

import re
from dataclasses import dataclass

_STEP = re.compile(r"rl_(\d{1,9})")
FULL = "episodes"
"""The episodes of an evaluation in which nothing is taken away."""
_COLD_START = ("demonstrations", "rehearsal")
STAGES = ("cold_start", "rl", "evaluation")
_STEPS = 1 << 20


@dataclass(frozen=True, slots=True)
class Name:
    """`step` is None outside RL. `variant` is what an ablation or the referee changed ("without code", "blank" …), or None."""

    name: str
    stage: str
    step: int | None = None
    variant: str | None = None

    @classmethod
    def of(cls, name: str) -> Name:
        """Reads a name."""
        if match := _STEP.fullmatch(name):
            return cls(name, "rl", int(match[1]))
        if name.startswith(_COLD_START):
            return cls(name, "cold_start")
        return cls(name, "evaluation", variant=None if name == FULL else name.replace("_", " "))

    @property
    def keys(self) -> range:
        """The keys that a name of this stage may have; of a step exactly one."""
        begin = STAGES.index(self.stage) * _STEPS
        if self.name == FULL:
            return range(begin, begin + 1)
        if self.step is None:
            return range(begin + 1, begin + _STEPS)
        place = begin + min(self.step, _STEPS - 1)
        return range(place, place + 1)
