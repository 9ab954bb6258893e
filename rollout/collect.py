"""Which episodes to run, and running them without learning.

Seeds depend on nothing but where an episode stands, so that any step can be run again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from envs import count_rows, resolve
from envs.datasets import is_dataset
from envs.errors import UsageError
from rollout.cluster.connect import join
from rollout.cluster.fleet import Fleet, Progress
from rollout.config import Backend, RolloutConfig
from rollout.store import Store
from rollout.types import Episode, EpisodeSpec

_SCRIPT_TOKENS = 1 << 16

Tasks = tuple[str, dict[str, Any]]
"""An environment id and the keyword arguments to make it with."""

SCRIPTS = {"oracle": "expert", "random": "random"}
"""Policies that are scripts of the environment, and the actor that plays them."""


@dataclass
class CollectConfig:
    """Episodes of one policy on one set of tasks."""

    out: str = "runs/collect"
    """Directory to write to."""

    tasks: str = "toolwise/Microworld-v0"
    """An environment id, a file of questions (.jsonl, .json, .parquet, .tsv), or a directory of Hugging Face's `datasets`."""

    options: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the environment, as in +options.need=1. Our own tasks take split=test where this names no other; of a
    file all rows are taken where it names no split."""

    policy: str = "starter"
    """A directory in the Hugging Face layout, `starter`, `oracle` (the scripted expert), `random`, or the URL of an
    OpenAI-compatible endpoint."""

    policy_model: str = ""
    """The name by which an endpoint knows its model."""

    tokenizer: str = "starter"
    """The policy in whose tokens the episodes of a script or an endpoint are written."""

    label: str | None = None
    """Name of the record in `evaluation.json`; null takes the policy's."""

    episodes: int = 64
    """Number of tasks; of a file or a directory each row once, so no more than it has."""

    group_size: int = 1
    """Episodes of each task."""

    temperature: float = 1.0
    """Sampling temperature; 0 is greedy."""

    seed: int = 0
    """Seed of tasks and sampling."""

    rollout: RolloutConfig = field(default_factory=RolloutConfig)


def tasks_of(config: CollectConfig) -> Tasks:
    """What `config.tasks` and `config.options` ask for. Raises what `resolve` raises."""
    ours = config.tasks.startswith("toolwise/") and not is_dataset(config.tasks)
    return resolve(config.tasks, ({"split": "test"} if ours else {}) | config.options)


def group_count(config: CollectConfig) -> int:
    """The number of tasks: `config.episodes`, or all rows of a file that has fewer. Raises what `resolve` raises."""
    rows = count_rows(*tasks_of(config))
    return config.episodes if rows is None else min(config.episodes, rows)


def is_endpoint(policy: str) -> bool:
    """Whether `policy` names an OpenAI-compatible endpoint and not a directory."""
    return policy.startswith(("http://", "https://"))


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
) -> list[EpisodeSpec]:
    """`groups` · `group_size` episodes; those of a group share their task. `in_order`: each group has the next row of a file.

    Seeds are drawn from (`name`, `seed`, `step`, group, member): the same arguments give the same tasks and the same samples.
    """
    env_id, env_kwargs = tasks
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
                    env_kwargs=env_kwargs | {"row": group} if in_order else env_kwargs,
                )
            )
    return specs


def collect(config: CollectConfig, policy_dir: str, on_progress: Progress | None = None) -> list[Episode]:
    """Roll out, and write `trajectories/episodes.jsonl` below `config.out`.

    `policy_dir` is the policy's directory; for a script or an endpoint, the one in whose tokens the transcripts are written.
    Raises UsageError for tasks that cannot be had, and where there are episodes in `config.out` already.
    """
    with Collector(config, policy_dir) as collector:
        return collector.collect("episodes", collector.specs, on_progress)


class Collector:
    """The fleet and the episodes of a configuration. `with` starts the fleet, on the Ray that it joins or starts, and stops it."""

    def __init__(self, config: CollectConfig, policy_dir: str) -> None:
        self.store = Store(config.out)
        if self.store.names():
            raise UsageError(f"{config.out} holds episodes already: write another out=")
        self._rollout = _prepared(config, policy_dir)
        tasks = tasks_of(config)
        self.options = tasks[1]
        self.specs = group_specs(
            Path(config.tasks).stem,
            tasks,
            groups=group_count(config),
            group_size=config.group_size,
            seed=config.seed,
            temperature=config.temperature,
            actor=SCRIPTS.get(config.policy, "policy"),
            in_order=count_rows(*tasks) is not None,
        )

    def __enter__(self) -> Self:
        join(self._rollout, self._rollout.workers * self._rollout.gpus_per_worker)
        self._fleet = Fleet(self._rollout)
        return self

    def __exit__(self, *_: object) -> None:
        self._fleet.shutdown()

    def collect(self, name: str, specs: Sequence[EpisodeSpec], on_progress: Progress | None = None) -> list[Episode]:
        """Roll the episodes out and write them as `trajectories/<name>.jsonl`."""
        episodes = self._fleet.collect(specs, on_progress)
        self.store.write(name, episodes)
        return episodes


def _prepared(config: CollectConfig, policy_dir: str) -> RolloutConfig:
    """The rollout's settings, with what the policy needs. Raises UsageError for an endpoint without a model's name."""
    rollout = config.rollout
    rollout.engine.policy = policy_dir
    if config.policy in SCRIPTS:
        rollout.backend = Backend.none
        # No model's context bounds a script, whose texts the tokenizer of a small policy may spell out byte by byte.
        for settings, name in ((rollout.engine, "max_model_len"), (rollout.episode, "max_tokens")):
            setattr(settings, name, max(getattr(settings, name), _SCRIPT_TOKENS))
    elif is_endpoint(config.policy):
        if not config.policy_model:
            raise UsageError("policy= is an endpoint: write policy_model=NAME as well, the name by which it knows its model")
        rollout.backend = Backend.endpoint
        rollout.endpoint.url, rollout.endpoint.model = config.policy, config.policy_model
    return rollout


def _seed(seed: int, path: tuple[int, ...]) -> int:
    # 31 bits: Gymnasium, vLLM and random.Random all take such a seed.
    return int(np.random.SeedSequence(seed, spawn_key=path).generate_state(1)[0] >> 1)
