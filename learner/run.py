"""A whole run: everything that can be wrong with it is looked at first, then its stages are done."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from envs import resolve
from envs.errors import UsageError
from evaluation.types import EvaluationRecord
from learner.experiment import Experiment, Stage
from learner.run_directory import RunDirectory
from rollout.cluster.connect import join
from rollout.cluster.fleet import Fleet
from rollout.engines.registry import import_path
from starter.policies import find_policy


def run(config: Experiment) -> tuple[Path, list[EvaluationRecord]]:
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
    with ThreadPoolExecutor(1) as thread:
        # Its processes start while this one imports. On GPUs the learner comes first: its workers want whole nodes.
        fleet = None if learner.gpus_per_worker else thread.submit(Fleet, rollout)
        # Imported late: a mistake in the settings is told at once, not after ten seconds of imports.
        from learner.stages import run_stages

        return directory.path, run_stages(config, policy_dir, directory, fleet)


def _check(config: Experiment, directory: RunDirectory) -> None:
    """Raise UsageError for settings that contradict each other."""
    if config.rollout.engine.kind in ("endpoint", "none"):
        raise UsageError(f"rollout.engine.kind={config.rollout.engine.kind} takes no new weights: leave it out to train")
    import_path(config.rollout.engine.kind)  # raises UsageError
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
    share = learner.gpus_per_worker
    if not 0 <= share <= 1 or (0 < share < 1 < learner.workers):
        raise UsageError(f"learner.gpus_per_worker={share:g}: write 0, 1, or a share of one GPU for a single worker")
    if learner.workers < 1 or learner.nodes < 1 or learner.workers % learner.nodes:
        raise UsageError(f"learner.workers={learner.workers} cannot be spread evenly over learner.nodes={learner.nodes}")
