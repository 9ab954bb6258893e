"""A whole run: everything that can be wrong with it is looked at first, then its stages are done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from envs import resolve
from envs.types import UsageError
from learner.experiment import Experiment, Stage
from learner.policies import find_policy
from learner.run_directory import RunDirectory
from rollout.cluster import join


def run(config: Experiment) -> tuple[Path, list[dict[str, Any]]]:
    """Do every stage that is not finished yet; returns the run directory and the records of `evaluation.json`.

    Raises UsageError, before anything is written, where policy, tasks, run directory, sandbox or GPUs are not to be had.
    """
    policy_dir = find_policy(config.policy)
    for options in (config.task_options.train, config.task_options.validation, config.task_options.test):
        resolve(config.tasks, options)
    directory = RunDirectory(config)
    _check(config, directory)
    rollout, learner = config.rollout, config.learner
    gpus = rollout.workers * rollout.gpus_per_worker + learner.workers * learner.gpus_per_worker
    join(rollout, gpus)
    rollout.engine.policy, learner.seed = policy_dir, config.seed
    directory.open(config)
    # Imported late: a mistake in the settings is told at once, not after ten seconds of imports.
    from learner.stages import run_stages

    return directory.path, run_stages(config, policy_dir, directory)


def _check(config: Experiment, directory: RunDirectory) -> None:
    """Raise UsageError for settings that contradict each other."""
    there = {stage.value for stage in config.stages} | directory.progress.keys()
    if Stage.control in config.stages and not {"cold_start", "rl"} <= there:
        raise UsageError("the control goes on with a cold start for as long as RL took: write stages=[cold_start,rl,control]")
    longest, room = config.rollout.episode.max_tokens, config.rollout.engine.max_model_len
    if longest > room:
        raise UsageError(f"rollout.episode.max_tokens={longest} is more than rollout.engine.max_model_len={room}: lower it")
    for name, value in (("evaluation.episodes", config.evaluation.episodes), ("rl.groups", config.rl.groups)):
        if value < 1:
            raise UsageError(f"{name}={value}: write 1 or more")
    learner = config.learner
    if learner.gpus_per_worker not in (0, 1):
        raise UsageError(f"learner.gpus_per_worker={learner.gpus_per_worker}: write 0 or 1, and more learner.workers")
    if learner.workers < 1 or learner.nodes < 1 or learner.workers % learner.nodes:
        raise UsageError(f"learner.workers={learner.workers} cannot be spread evenly over learner.nodes={learner.nodes}")
