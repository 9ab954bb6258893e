"""No engine: a worker whose episodes are all played by scripts of their environments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from envs.errors import UsageError
from rollout.config import RolloutConfig
from rollout.types import Generation

if TYPE_CHECKING:
    import torch


class NoPolicy:
    """Takes the place of a `rollout.policy.Policy` and samples nothing. Its version is that of what was last published to it."""

    healthy = True

    def __init__(self, config: RolloutConfig, version: int = 0) -> None:
        self.version = version

    async def generate(self, *_: Any, **__: Any) -> Generation:
        """Raises UsageError."""
        raise UsageError("rollout.engine.kind=none samples nothing: leave it out, or play a script (policy=expert, policy=random)")

    async def publish(self, state: Mapping[str, torch.Tensor], version: int) -> None:
        """Note the version."""
        self.version = version

    async def close(self) -> None:
        """Nothing is held."""
