"""Which episodes to run: groups of them, whose seeds and rows depend on nothing but their place, so that any step can be run again.

The rows of a file are drawn without replacement, epoch by epoch: each epoch is its own permutation of them, of which a group takes
the next row. Worlds that generate a task from a seed have no rows, and no group of theirs is drawn twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
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
    rows: Sequence[int] | None = None,
    first: int = 0,
    rows_name: str | None = None,
    repeat_if_cut: bool = False,
) -> list[GroupSpec]:
    """`groups` groups of `group_size` episodes each; the episodes of a group share their task.

    Seeds are drawn from (`name`, `seed`, `step`, group, member): the same arguments give the same tasks and the same samples.
    `rows` are the numbers of a file's rows (`envs.row_numbers`), None for tasks that are generated from the seed; the groups get
    the rows at the places `first`, `first` + 1, … of what `draw` gives for (`rows_name`, `seed`), so that a caller who counts its
    groups gets every row once before any comes again, whatever the number of groups in a step. `rows_name` is `name` unless several
    names share one count. `repeat_if_cut` is for `EpisodeSpec`.
    """
    env_id, env_kwargs = tasks
    drawn = None if rows is None else draw(rows, groups, seed=seed, name=rows_name or name, first=first)
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
                env_kwargs=env_kwargs if drawn is None else env_kwargs | {"number": drawn[group]},
                repeat_if_cut=repeat_if_cut,
            )
            for member in range(group_size)
        )
        specs.append(GroupSpec(group_id, episodes))
    return specs


def variant(groups: Iterable[GroupSpec], name: str, **options: Any) -> list[GroupSpec]:
    """The same groups, seeds and samples with other `options` of the environment; `name` is added to their names.

    What `without` takes away is taken away beside what the groups' own options take away.
    """
    return [
        GroupSpec(f"{group.group_id} {name}", tuple(_changed(spec, name, options) for spec in group.episodes)) for group in groups
    ]


def _changed(spec: EpisodeSpec, name: str, options: Mapping[str, Any]) -> EpisodeSpec:
    own = spec.env_kwargs.get("without") or ()
    taken = {"without": [*dict.fromkeys([*own, *options["without"]])]} if "without" in options else {}
    return replace(
        spec,
        episode_id=f"{spec.episode_id} {name}",
        group_id=f"{spec.group_id} {name}",
        env_kwargs=spec.env_kwargs | dict(options) | taken,
    )


def draw[T](items: Sequence[T], count: int, *, seed: int, name: str = "", first: int = 0) -> list[T]:
    """`count` of the `items`, from the place `first` on in an endless sequence of epochs, each a permutation of all items.

    The permutation of an epoch depends on (`name`, `seed`, epoch, number of items) alone. Raises ValueError if there are no items.
    """
    if not len(items):
        raise ValueError("there is nothing to draw from")
    places = range(first, first + count)
    return [items[_permutation(len(items), seed, name, place // len(items))[place % len(items)]] for place in places]


@lru_cache(maxsize=8)
def _permutation(size: int, seed: int, name: str, epoch: int) -> np.ndarray:
    path = (*name.encode(), epoch)
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=path)).permutation(size)


def _seed(seed: int, path: tuple[int, ...]) -> int:
    # 31 bits: Gymnasium, vLLM and random.Random all take such a seed.
    return int(np.random.SeedSequence(seed, spawn_key=path).generate_state(1)[0] >> 1)
