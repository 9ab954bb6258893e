"""What the name of a trajectory file says: the stage, the step, and what was taken away in an ablation."""

from __future__ import annotations

from dataclasses import dataclass

from rollout.store import step_of

FULL = "episodes"
"""The episodes of an evaluation in which nothing is taken away."""
_COLD_START = ("demonstrations", "rehearsal")
STAGES = ("cold_start", "rl", "evaluation")
STAGE_BITS, STEP_BITS, DRAW_BITS = 2, 20, 6
_STEPS, _DRAWS = 1 << STEP_BITS, 1 << DRAW_BITS


@dataclass(frozen=True, slots=True)
class Name:
    """`step` is None outside RL; `draw` numbers the draws of a step that dynamic sampling played more than once. `variant` is what
    an ablation or the referee changed ("without code", "blank" …), or None."""

    name: str
    stage: str
    step: int | None = None
    variant: str | None = None
    draw: int = 0

    @classmethod
    def of(cls, name: str) -> Name:
        """Reads a name."""
        place = step_of(name)
        if place is not None and place[0] < _STEPS and place[1] < _DRAWS:
            return cls(name, "rl", place[0], draw=place[1])
        if name.startswith(_COLD_START):
            return cls(name, "cold_start")
        return cls(name, "evaluation", variant=None if name == FULL else name.replace("_", " "))

    @property
    def keys(self) -> range:
        """The keys that a name of this stage may have; of a draw of a step exactly one."""
        begin = STAGES.index(self.stage) * _STEPS * _DRAWS
        if self.name == FULL:
            return range(begin, begin + 1)
        if self.step is None:
            return range(begin + 1, begin + _STEPS * _DRAWS)
        place = begin + self.step * _DRAWS + self.draw
        return range(place, place + 1)
