"""A whole run: everything that can be wrong with it is checked first, then its stages are done."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from envs.errors import UsageError
from envs.runtime.failures import place
from envs.runtime.progress import Advance, Progress, Snapshot, View, silent
from envs.types import SPLITS
from evaluation.types import EvaluationRecord
from learner.experiment import Experiment, Stage
from learner.held_out import doubts
from learner.plan.fit import check_memory
from learner.policy_check import check_policy
from learner.run_files.run_directory import RunDirectory
from learner.run_files.status import RunStatus, kept
from learner.trainer import TRAINERS, Trainer, find_trainer, lacks, ranks_of
from learner.verl.configuration.passthrough import check_reward_keys
from rollout.cluster.connect import join
from rollout.cluster.deaths import in_one_line
from rollout.cluster.fleet import Fleet
from rollout.collect import askable_rows
from rollout.engines.verl.servers import check_transport
from rollout.episode.environments import make
from starter.policies import find_policy


def _hidden(title: str, total: int) -> AbstractContextManager[Advance]:
    """A `Progress` that shows nothing."""
    return nullcontext(silent)


def _unseen(snapshot: Snapshot) -> AbstractContextManager[None]:
    """A `View` that shows nothing."""
    return nullcontext()


def run(
    config: Experiment,
    progress: Progress = _hidden,
    say: Callable[[str], None] = lambda text: None,
    view: View = _unseen,
) -> tuple[Path, list[EvaluationRecord]]:
    """Do every stage that is not finished yet; returns the run directory and the records of `evaluation.json`.

    `progress` and `say` show a person how the run goes on; `view` shows where it stands, as `status.json` does. Raises UsageError,
    before anything is written, if settings contradict each other, and if the policy, the tasks, the run directory, the sandbox or
    the GPUs cannot be used or are too small; FleetError if what the run needs has died.
    """
    policy_dir = find_policy(config.policy)
    check_policy(policy_dir, config.rollout.engine.max_model_len)
    for split in SPLITS:
        env = make(*config.tasks_of(split))
        if split == "train" and Stage.rl in config.stages:
            check_reward_keys(config.learner, getattr(env.unwrapped, "reward_part_names", None))
        env.close()
    directory = RunDirectory(config)
    config.check(finished=directory.progress)
    rows = {split: askable_rows(config.tasks_of(split), policy_dir, config.rollout.episode) for split in SPLITS}
    for doubt in doubts(config):
        say(doubt)
    rollout, learner = config.rollout, config.learner
    join(rollout, rollout.workers * rollout.gpus_per_worker + learner.workers * learner.gpus_per_worker)
    check_transport(rollout)
    check_memory(config, say)
    directory.open(config)
    learners: list[Any] = []
    status = RunStatus([stage.value for stage in config.stages])
    with view(status.snapshot), kept(status, directory.path), in_one_line(learners), ThreadPoolExecutor(1) as thread:
        start_fleet = partial(Fleet, replace(rollout, engine=replace(rollout.engine, policy=policy_dir)))
        fleet: Callable[..., Fleet] = start_fleet
        if not learner.gpus_per_worker:
            # Its processes start while this one imports. On GPUs the trainer comes first: its workers want whole nodes.
            fleet = thread.submit(start_fleet).result
        # Imported late: a mistake in the settings is answered at once, not after ten seconds of imports.
        from learner.stages import run_stages
        from learner.training_run import TrainingRun

        trainer = start_trainer(config, policy_dir)
        if config.shares_gpus:
            fleet = partial(start_fleet, learner=ranks_of(trainer))
        learners += getattr(trainer, "actors", ())
        with TrainingRun(
            config,
            policy_dir,
            directory,
            trainer=trainer,
            fleet=fleet(),
            rows=rows,
            progress=progress,
            say=say,
            status=status,
        ) as training:
            return directory.path, run_stages(training)


def start_trainer(config: Experiment, policy_dir: str) -> Trainer:
    """The trainer that the settings name, on the policy in `policy_dir`. Ray must be running."""
    from transformers import AutoConfig, AutoTokenizer

    from rollout.tokens.chat_format import banned_token_ids
    from rollout.tokens.policy_files import require_vocabulary

    tokenizer = AutoTokenizer.from_pretrained(policy_dir)
    require_vocabulary(tokenizer, policy_dir)
    banned = banned_token_ids(tokenizer, AutoConfig.from_pretrained(policy_dir))
    kind = config.learner.kind
    try:
        trainer = find_trainer(kind)(policy_dir, config.learner, seed=config.seed, banned_token_ids=banned)
    except TypeError as error:
        if kind in TRAINERS or place(error):
            raise
        raise UsageError(
            f"learner.kind={kind} cannot be made as Class(policy_dir, config, seed=…, banned_token_ids=…): {error}"
        ) from error
    if missing := lacks(trainer):
        raise UsageError(f"learner.kind={kind} has no {', '.join(missing)}: write what learner.trainer.Trainer lists")
    return trainer
