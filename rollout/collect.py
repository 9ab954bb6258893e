"""Rolling out without learning: the settings of `toolwise collect`, and the fleet that runs their episodes."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import gymnasium
from gymnasium.envs.registration import load_env_creator
from omegaconf import OmegaConf

from envs import count_rows, questions_of, resolve, row_numbers
from envs.datasets import is_dataset
from envs.errors import UsageError
from envs.runtime.atomic import write_file
from envs.runtime.imports import import_module, import_path
from envs.runtime.progress import Advance, silent
from rollout.cluster.connect import join
from rollout.cluster.fleet import Fleet
from rollout.config import EpisodeConfig, RolloutConfig
from rollout.engines.registry import ENGINES
from rollout.episode.environments import make
from rollout.episode.fit import fitting_rows
from rollout.resuming import require_same
from rollout.specs import Tasks, group_specs
from rollout.store import Store
from rollout.tokens.chat_format import ChatFormat
from rollout.types import Group, GroupSpec, episodes_of

log = logging.getLogger(__name__)

_SCRIPT_TOKENS = 1 << 16

SCRIPTS = {"expert": "expert", "oracle": "expert", "random": "random"}
"""Policies that are scripts of the environment, and the actor that plays them; `oracle` is another name of `expert`."""


@dataclass
class CollectConfig:
    """Episodes of one policy on one set of tasks."""

    out: str = "runs/collect"
    """Directory to write to."""

    tasks: str = "toolwise/Microworld-v0"
    """An environment id, a file of questions (.jsonl, .json, .parquet, .tsv, .csv), or a directory of Hugging Face's `datasets`."""

    options: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the environment, as in +options.need=1. An environment whose `split` is "train" by default gets
    split=test if none is named here. Of a file all rows are taken unless a split is named."""

    policy: str = "starter"
    """A directory in the Hugging Face layout, `starter`, `expert` (the script that knows the answer), `random`, or the URL of an
    OpenAI-compatible endpoint."""

    policy_model: str = ""
    """The name by which an endpoint knows its model."""

    tokenizer: str = "starter"
    """The policy in whose tokens the episodes of a script or an endpoint are written."""

    label: str | None = None
    """Name of the record in `evaluation.json`; null takes the policy's."""

    episodes: int = 64
    """Number of tasks. Of a file or a directory each row once, so no more than it has; fewer are drawn by `seed`."""

    group_size: int = 1
    """Episodes of each task."""

    temperature: float = 1.0
    """Sampling temperature; 0 is greedy."""

    seed: int = 0
    """Seed of tasks and sampling."""

    resume: bool = False
    """Go on with what an interrupted command wrote to `out`, with the settings that it began with: episodes that ended are kept."""

    rollout: RolloutConfig = field(default_factory=RolloutConfig)

    SPLIT: ClassVar[str] = "test"
    """The split of an environment that is made on its training split by default, if none is named."""


def tasks_of(config: CollectConfig) -> Tasks:
    """The environment that `config.tasks` and `config.options` ask for. Raises as `resolve`, and UsageError for a module that is
    not found."""
    env_id, options = resolve(config.tasks, config.options)
    return env_id, _split(config.tasks, config.SPLIT) | options


def group_count(config: CollectConfig) -> int:
    """The number of tasks: `config.episodes`, or all rows of a file that has fewer. Raises as `tasks_of`."""
    rows = count_rows(*tasks_of(config))
    return config.episodes if rows is None else min(config.episodes, rows)


def askable_rows(tasks: Tasks, policy_dir: str, config: EpisodeConfig) -> Sequence[int] | None:
    """The numbers of the rows that `tasks` ask, without those that are too long for the policy's tokenizer if
    `config.overlong` says so; None if the tasks are generated. Raises as `fitting_rows`."""
    data = questions_of(*tasks)
    if data is None:
        return None
    env = make(*tasks)
    try:
        return fitting_rows(data, env, ChatFormat.from_directory(policy_dir), config)
    finally:
        env.close()


def is_endpoint(policy: str) -> bool:
    """Whether `policy` names an OpenAI-compatible endpoint and not a directory."""
    return policy.startswith(("http://", "https://"))


def collect(config: CollectConfig, policy_dir: str, advance: Advance = silent) -> list[Group]:
    """Roll out, and write `trajectories/episodes.jsonl` below `config.out`.

    `policy_dir` is the policy's directory; for a script or an endpoint, the one in whose tokens the transcripts are written.
    Raises UsageError if the tasks cannot be used, and as `Collector`.
    """
    with Collector(config, policy_dir) as collector:
        groups = collector.collect("episodes", collector.specs, advance)
        for note in collector.notes():
            log.warning("%s", note)
        return groups


_DECISIVE = (
    "tasks",
    "options",
    "policy",
    "policy_model",
    "tokenizer",
    "group_size",
    "temperature",
    "seed",
    "rollout.episode",
)
"""The settings that decide what an episode is: a resumed command has those of its beginning."""


class Collector:
    """The fleet and the groups of a configuration. The fleet is started when the first episode is missing, on the Ray that it joins
    or starts; the end of `with` stops it.

    Raises UsageError if there are episodes in `config.out` already and `config.resume` is not set, or if they were begun with
    other settings.
    """

    def __init__(self, config: CollectConfig, policy_dir: str) -> None:
        self.store, self._config, self._played = Store(config.out), config, False
        self._fleet: Fleet | None = None
        if self.store.names() and not config.resume:
            raise UsageError(f"{config.out} holds episodes already: write resume=true to go on with them, or another out=")
        self._saved = Path(config.out, "config.yaml")
        require_same(self._saved, config, _DECISIVE)
        self.rollout = _rollout_of(config, policy_dir)
        tasks = tasks_of(config)
        self.options = tasks[1]
        # No model's context bounds a script.
        rows = row_numbers(*tasks) if config.policy in SCRIPTS else askable_rows(tasks, policy_dir, self.rollout.episode)
        self.specs = group_specs(
            Path(config.tasks).stem,
            tasks,
            groups=config.episodes if rows is None else min(config.episodes, len(rows)),
            group_size=config.group_size,
            seed=config.seed,
            temperature=config.temperature,
            actor=SCRIPTS.get(config.policy, "policy"),
            rows=rows,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._fleet is not None:
            self._fleet.shutdown()

    def _running(self) -> Fleet:
        """The fleet, which is started if it is not yet."""
        if self._fleet is None:
            join(self.rollout, self.rollout.workers * self.rollout.gpus_per_worker)
            self._fleet = Fleet(self.rollout)
        return self._fleet

    def collect(self, name: str, specs: Sequence[GroupSpec], advance: Advance = silent, keep_others: bool = False) -> list[Group]:
        """Roll the groups out and write their episodes as `trajectories/<name>.jsonl`: each as soon as it ends, and all of them in
        the order of `specs` at the end. Episodes that the file holds already are not run again, unless they failed; with
        `keep_others` those of other groups stay in the file, behind them."""
        known = {episode.chains[0].episode_id: episode for episode in self.store.read_unfinished(name) if not episode.failed}
        if known:
            self.store.write(name, known.values())  # without those that failed, which come again
        missing = [GroupSpec(group.group_id, (spec,)) for group in specs for spec in group.episodes if spec.episode_id not in known]
        begun = sum(len(group.episodes) for group in specs) - len(missing)
        # One by one, not group by group: an episode is kept as soon as it ends, whatever the others of its group do.
        fleet = self._running() if missing else None
        write_file(self._saved, OmegaConf.to_yaml(OmegaConf.structured(self._config)))  # once nothing is wrong with them
        new = (
            []
            if fleet is None
            else fleet.collect(
                missing,
                lambda done, text: advance(begun + done, text),
                keep=lambda episode: self.store.append(name, episode),
                played=self._played or any(not episode.unplayed for episode in known.values()),
            )
        )
        outcomes = known | {episode.chains[0].episode_id: episode for episode in episodes_of(new)}
        groups = [Group(group.group_id, tuple(outcomes[spec.episode_id] for spec in group.episodes)) for group in specs]
        self._played |= any(not (episode.unplayed or episode.failed) for episode in episodes_of(groups))
        asked = {episode.chains[0].episode_id for episode in episodes_of(groups)}
        others = [episode for episode_id, episode in known.items() if keep_others and episode_id not in asked]
        self.store.write(name, [*episodes_of(groups), *others])
        return groups

    def notes(self) -> list[str]:
        """What the policy has to say about how it was asked; see `Fleet.notes`."""
        return [] if self._fleet is None else self._fleet.notes()


def _rollout_of(config: CollectConfig, policy_dir: str) -> RolloutConfig:
    """The settings of the rollout, with what the policy needs.

    Raises UsageError for an unknown engine, and for an endpoint without a model's name.
    """
    rollout = config.rollout
    engine, episode, endpoint = replace(rollout.engine, policy=policy_dir), rollout.episode, rollout.endpoint
    if config.policy in SCRIPTS:
        # No model's context bounds a script, whose texts the tokenizer of a small policy may spell out byte by byte.
        engine = replace(engine, kind="none", max_model_len=max(engine.max_model_len, _SCRIPT_TOKENS))
        episode = replace(episode, max_tokens=max(episode.max_tokens, _SCRIPT_TOKENS))
    elif is_endpoint(config.policy):
        if not config.policy_model:
            raise UsageError("policy= is an endpoint: write policy_model=NAME as well, the name by which it knows its model")
        engine = replace(engine, kind="endpoint")
        endpoint = replace(endpoint, url=config.policy, model=config.policy_model)
    import_path("rollout.engine.kind", engine.kind, ENGINES)  # raises UsageError
    return replace(rollout, engine=engine, episode=episode, endpoint=endpoint)


def _split(tasks: str, split: str) -> dict[str, Any]:
    """{"split": split} for an environment that is made on its training split by default, else nothing."""
    if is_dataset(tasks):
        return {}
    module, _, env_id = tasks.rpartition(":")
    if module:
        import_module(module, f"tasks={tasks}")
    try:
        spec = gymnasium.registry.get(env_id)
        if spec is None or spec.entry_point is None:  # `resolve` says so
            return {}
        maker = load_env_creator(spec.entry_point) if isinstance(spec.entry_point, str) else spec.entry_point
    except ModuleNotFoundError as error:
        raise UsageError(f"tasks={tasks}: there is no module {error.name}; put its directory into PYTHONPATH") from error
    parameter = inspect.signature(maker).parameters.get("split")
    default = spec.kwargs.get("split", parameter.default if parameter else None)
    return {"split": split} if default == "train" else {}
