"""Which episodes to run: groups of them, whose seeds depend on nothing but their place, so that any step can be run again."""

from __future__ import annotations

from typing import Any

import numpy as np

from rollout.types import EpisodeSpec, GroupSpec

Tasks = tuple[str, dict[str, Any]]
"""An environment id and the keyword arguments to make it with."""


def group_specs(
    name: str,
    tasks: Tasks,
    *,
    groups: int,
    group_size: int = 1,
    seed: int,
    step: int = 0,
    temperature: float = 1.0,
    actor: str = "policy",
    in_order: bool = False,
) -> list[GroupSpec]:
    """`groups` groups of `group_size` episodes each; the episodes of a group share their task.

    `in_order` gives each group the next row of a file. Seeds are drawn from (`name`, `seed`, `step`, group, member): the same
    arguments give the same tasks and the same samples.
    """
    env_id, env_kwargs = tasks
    specs = []
    for group in range(groups):
        group_id = f"{name}-{step}-{group}"
        path = (*name.encode(), step, group)
        env_seed = _seed(seed, path)
        episodes = tuple(
            EpisodeSpec(
                episode_id=f"{group_id}-{member}",
                group_id=group_id,
                env_id=env_id,
                env_seed=env_seed,
                sampling_seed=_seed(seed, (*path, member + 1)),
                temperature=temperature,
                actor=actor,
                env_kwargs=env_kwargs | {"row": group} if in_order else env_kwargs,
            )
            for member in range(group_size)
        )
        specs.append(GroupSpec(group_id, episodes))
    return specs


def _seed(seed: int, path: tuple[int, ...]) -> int:
    # 31 bits: Gymnasium, vLLM and random.Random all take such a seed.
    return int(np.random.SeedSequence(seed, spawn_key=path).generate_state(1)[0] >> 1)
