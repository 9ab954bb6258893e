"""A whole run: everything that can be wrong with it is looked at first, then its stages are done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from envs import resolve
from learner.experiment import Experiment
from learner.policies import find_policy
from learner.run_directory import RunDirectory
from rollout.cluster import join


def run(config: Experiment) -> tuple[Path, list[dict[str, Any]]]:
    """Do every stage that is not finished yet; returns the run directory and the records of `evaluation.json`.

    Raises UsageError, before anything is written, where policy, tasks, run directory, sandbox or GPUs are not to be had.
    """
    policy_dir = find_policy(config.policy)
    resolve(config.tasks)
    directory = RunDirectory(config)
    rollout, learner = config.rollout, config.learner
    gpus = rollout.workers * rollout.gpus_per_worker + learner.workers * learner.gpus_per_worker
    join(gpus, rollout.accept_reduced_isolation)
    rollout.engine.policy, learner.seed = policy_dir, config.seed
    directory.open(config)
    # Imported late: a mistake in the settings is told at once, not after ten seconds of imports.
    from learner.stages import run_stages

    return directory.path, run_stages(config, policy_dir, directory)
