"""The check that a demonstration must pass before it is learned from."""

from __future__ import annotations

from rollout.types import Trajectory


def is_verified(trajectory: Trajectory) -> bool:
    """Whether a demonstration may be learned from: its answer is right and none of its tool calls failed (DeepEyesV2 §3.3)."""
    return trajectory.correct and all(turn.succeeded for turn in trajectory.turns)
