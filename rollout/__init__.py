"""Episodes of a policy: their records, and how they are rolled out.

What stands in `__all__` is stable: it changes only with a line in the CHANGELOG that says how to follow.
"""

from rollout.config import EngineConfig, EpisodeConfig, RolloutConfig
from rollout.policy import ChatPolicy, Policy
from rollout.store import Store
from rollout.types import (
    Episode,
    EpisodeSpec,
    Generation,
    Group,
    GroupSpec,
    StopReason,
    ToolCallRecord,
    Trajectory,
    Turn,
)

__all__ = [
    "ChatPolicy",
    "EngineConfig",
    "Episode",
    "EpisodeConfig",
    "EpisodeSpec",
    "Generation",
    "Group",
    "GroupSpec",
    "Policy",
    "RolloutConfig",
    "StopReason",
    "Store",
    "ToolCallRecord",
    "Trajectory",
    "Turn",
]
