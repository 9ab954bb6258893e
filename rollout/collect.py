"""Which episodes to run, and running them without learning.

Seeds depend on nothing but where an episode stands, so that any step can be run again.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rollout.types import EpisodeSpec


def group_specs(
    name: str,
    env_id: str,
    *,
    groups: int,
    group_size: int = 1,
    seed: int,
    step: int = 0,
    temperature: float = 1.0,
    actor: str = "policy",
    env_kwargs: dict[str, Any] | None = None,
) -> list[EpisodeSpec]:
    """`groups` · `group_size` episodes; those of a group share their task.

    Seeds are drawn from (`name`, `seed`, `step`, group, member): the same arguments give the same tasks and the same samples.
    """
    specs = []
    for group in range(groups):
        group_id = f"{name}-{step}-{group}"
        path = (*name.encode(), step, group)
        env_seed = _seed(seed, path)
        for member in range(group_size):
            specs.append(
                EpisodeSpec(
                    episode_id=f"{group_id}-{member}",
                    group_id=group_id,
                    env_id=env_id,
                    env_seed=env_seed,
                    sampling_seed=_seed(seed, (*path, member + 1)),
                    temperature=temperature,
                    actor=actor,
                    env_kwargs=env_kwargs or {},
                )
            )
    return specs


def _seed(seed: int, path: tuple[int, ...]) -> int:
    # 31 bits: Gymnasium, vLLM and random.Random all take such a seed.
    return int(np.random.SeedSequence(seed, spawn_key=path).generate_state(1)[0] >> 1)
