"""A trainer on verl: a group of its training workers on Ray behind plain arrays.

Only this package imports verl. Ray must be running. The axes
E (episodes) and N (sequences) are those of `learner.batch`.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from fsspec.core import url_to_fs
from ray.exceptions import RayTaskError
from ray.util.placement_group import placement_group

from envs.errors import FleetError, ToolwiseError
from envs.runtime.garbage import importing
from learner.batch import Batch
from learner.config import LearnerConfig
from learner.trainer import Trainer
from learner.verl.configuration.passthrough import (
    advantages_on_ranks,
    has_adapter,
    needs_reference,
    recomputes_old,
    teaches_by_advantage_alone,
)
from learner.verl.rows import Outcomes, PolicyTargets
from learner.verl.shares import FILLER, divide, mini_batches_of
from rollout.cluster.weights import Weights
from rollout.engines.verl.servers import Ranks
from rollout.learned import LearnedFiles

log = logging.getLogger(__name__)


class VerlTrainer(Trainer):
    """A policy in training.

    Raises RuntimeError if Ray is not running, and UsageError for settings that contradict each other.
    """

    def __init__(
        self, policy_dir: str | Path, config: LearnerConfig, *, seed: int = 0, banned_token_ids: Sequence[int] = ()
    ) -> None:
        if not ray.is_initialized():
            raise RuntimeError("Ray is not running: call ray.init() before VerlTrainer(...)")
        config.check()
        self.policy_dir = Path(policy_dir)
        self.config = config
        self._sent: tuple[Batch, ray.ObjectRef] | None = None
        self._files: LearnedFiles | None = None
        environment = {}
        if config.gpus_per_worker == 0:
            environment = {"VERL_PLATFORM": "cpu", "VERL_USE_EXTERNAL_MODULES": "rollout.engines.verl.cpu_platform"}
            os.environ.update(environment)
            # If others want the cores too, threads that wait by spinning make a step several times slower.
            environment["OMP_WAIT_POLICY"] = "PASSIVE"
        os.environ.setdefault("VERL_LOGGING_LEVEL", "WARNING")
        # Imported late: verl settles on a platform while it is imported, and warns of every engine that is not installed.
        with importing(), warnings.catch_warnings(action="ignore", category=UserWarning):
            from verl.single_controller.ray import RayClassWithInitArgs, RayResourcePool, RayWorkerGroup

            from learner.verl.worker import LearnerWorker

        on_each_node = [config.workers // config.nodes] * config.nodes
        share = config.gpus_per_worker or 1
        # verl asks for 1 / max_colocate_count GPUs a worker, but reserves whole ones: a share is reserved here instead.
        self._pool = RayResourcePool(on_each_node, use_gpu=config.gpus_per_worker > 0, max_colocate_count=1 / share)  # ty: ignore[invalid-argument-type]
        if share < 1:
            self._pool.pgs = [placement_group([{"CPU": 1, "GPU": share}])]
            ray.get(self._pool.pgs[0].ready())
        self._group: Any = RayWorkerGroup(
            self._pool,
            RayClassWithInitArgs(
                ray.remote(LearnerWorker),
                policy_dir=str(self.policy_dir),
                config=config,
                seed=seed,
                banned_token_ids=list(banned_token_ids),
            ),
            worker_env=environment,
            device_name="cuda" if config.gpus_per_worker else "cpu",
        )
        self._ranks: int = self._on_ranks("data_parallel_size")[0]

    def log_probs(self, batch: Batch, with_entropy: bool = True) -> tuple[np.ndarray, np.ndarray | None]:
        """See `Trainer.log_probs`. Natural logarithm, float32."""
        shares = divide(batch, np.arange(len(batch)), self._ranks)
        settings = self._settings(batch, shares) | {"calculate_entropy": with_entropy}
        parts = [part for part in self._on_ranks("infer", self._put(batch), shares, settings) if part is not None]
        starts = np.concatenate([[0], batch.lengths_N.cumsum()])
        log_probs, entropies = np.zeros(starts[-1], np.float32), np.zeros(starts[-1], np.float32)
        for share, (log_probs_part, entropies_part) in zip(shares, parts, strict=True):
            rows = share[share != FILLER]
            places = np.concatenate([np.arange(starts[row], starts[row + 1]) for row in rows]) if len(rows) else []
            log_probs[places] = log_probs_part
            if with_entropy:
                entropies[places] = entropies_part
        return log_probs, entropies if with_entropy else None

    def supervised_step(self, batch: Batch, lr: float, per_sequence: bool = False) -> dict[str, float]:
        """One optimizer step on the negative log-likelihood of the sampled tokens, at temperature 1: its mean over all of them, or
        the mean over sequences of each one's mean.

        Returns `train/loss`, `train/grad_norm` (before clipping), `train/lr`, `train/skipped_updates` (1 if the gradient was not
        finite: then nothing was learned), and `perf/…` as `policy_step`.
        """
        _require_trained_tokens(batch)
        shares = divide(batch, np.arange(len(batch)), self._ranks)
        settings = self._settings(batch, shares) | {"temperature": 1.0}
        loss = "supervised_sequence" if per_sequence else "supervised"
        metrics, used = _first_and_used(self._on_ranks("update", loss, self._put(batch), shares, settings, lr))
        shown = {f"train/{name}": metrics[name] for name in ("loss", "grad_norm", "skipped_updates")}
        _warn_of_skipped(metrics)
        return shown | {"train/lr": lr} | used

    def policy_step(self, batch: Batch, advantages: np.ndarray, lr: float) -> dict[str, float]:
        """`ppo_epochs` passes in `mini_batches` optimizer steps each on the policy objective, by default clipped, mean over tokens.

        `advantages` has shape (E,), one for all sampled tokens of an episode. If there is one optimizer step only, the policy that
        is updated is the one that acted, and old log-probabilities are not computed apart. Sequences whose advantage is 0 count in
        the mean and are not computed if that leaves the gradient as it is; one always is, to be measured.

        Returns the means over the steps of verl's `actor/pg_loss`, `actor/ppo_kl`, `actor/pg_clipfrac`, `actor/pg_clipfrac_lower`,
        `actor/grad_norm` (before clipping), `actor/entropy_loss` if there is an entropy bonus, and `actor/lr`;
        `actor/skipped_updates`, the number of optimizer steps that were left out, since their gradient was not finite;
        `actor/computed_sequences`, the share that was computed; and over the sampled tokens of those, before the update:
        `actor/entropy`, and `rollout/logprob_gap` and `rollout/logprob_gap_max`, the mean and largest absolute difference of the
        learner's and the sampler's log-probabilities. Besides: with a reference policy `actor/kl_loss` or
        `actor/reward_kl_penalty`, and with a correction of the sampler's log-probabilities verl's `rollout_corr/…`.

        Under verl's names as well, in GiB and the most of all ranks: `perf/cpu_memory_used_gb` of a rank's host, and on GPUs
        `perf/max_memory_allocated_gb` and `perf/max_memory_reserved_gb`, what PyTorch had at its peak since the rank started.
        """
        _require_trained_tokens(batch)
        advantages = np.asarray(advantages, dtype=np.float32)
        if advantages.shape != (len(batch.examples_E),):
            raise ValueError(f"{len(batch.examples_E)} episodes need as many advantages, not an array of shape {advantages.shape}")
        config = self.config
        taught = advantages[batch.episodes_N] != 0 if teaches_by_advantage_alone(config) else np.ones(len(batch), dtype=bool)
        if not taught.any():
            taught[batch.lengths_N.argmin()] = True  # for the measures: without a single sequence there would be none
        mini_batches = min(config.mini_batches, len(batch))
        shares = divide(batch, np.flatnonzero(taught), self._ranks, mini_batches)
        parts = mini_batches_of(batch, mini_batches, np.arange(len(batch)))
        settings = self._settings(batch, shares, mini_batches) | {"epochs": config.ppo_epochs, "calculate_entropy": True}
        targets = PolicyTargets(
            advantages,
            tokens_M=np.array([batch.trained_N[part].sum() for part in parts]),
            sequences_M=np.array([len(part) for part in parts]),
            recompute_old=recomputes_old(config, mini_batches * config.ppo_epochs),
            outcomes=Outcomes.of(batch) if advantages_on_ranks(config) else None,
            files=self._files and self._files.with_others(batch.learned(advantages, np.flatnonzero(~taught))),
        )
        self._files = None
        metrics, used = _first_and_used(self._on_ranks("update", "policy", self._put(batch), shares, settings, lr, targets))
        _warn_of_skipped(metrics)
        self._sent = None  # the step's tokens and images need not stay in memory while the next one is played
        shown = {name: value for name, value in metrics.items() if name.startswith(("actor/", "rollout/", "rollout_corr/"))}
        return (
            shown
            | used
            | {
                "actor/grad_norm": metrics["grad_norm"],
                "actor/skipped_updates": metrics["skipped_updates"],
                "actor/lr": lr,
                "actor/computed_sequences": float(taught.mean()),
            }
        )

    def record(self, files: LearnedFiles) -> None:
        """See `learner.trainer.RecordsLearned`. Each rank writes its rows."""
        self._files = files

    def advantages(self, batch: Batch) -> np.ndarray:
        """Advantages (E,) by the estimator `learner.verl.algorithm.adv_estimator`, GRPO's unless another is named.

        See `learner.verl.objective.advantages.outcome_advantages`. With a divergence in the reward the ranks compute others in its
        place.
        """
        from learner.verl.objective.advantages import outcome_advantages

        return outcome_advantages(self.config, batch.rewards_E, batch.group_ids_E, batch.tokens_E, batch.parts_E)

    def refer_to(self, policy_dir: str) -> None:
        """See `Trainer`. An adapter is compared with the policy that it adapts, whatever the directory."""
        if needs_reference(self.config) and not has_adapter(self.config):
            self._on_ranks("refer_to", policy_dir)

    def share_weights(self, dtype: str) -> Weights:
        """See `Trainer`. Rank 0 gathers one weight after the other, so that no process ever holds a second copy of them all."""
        return self._on_ranks("share_weights", dtype)[0]

    def state_dict(self) -> dict[str, torch.Tensor]:
        """A copy of all weights, whole, float32, under the names of a Hugging Face checkpoint: for whoever looks at them."""
        weights: Weights = self._on_ranks("share_weights", "float32", True)[0]
        return {name: tensor.clone() for name, tensor in weights.tensors().items()}

    def ranks(self) -> Ranks:
        """The workers, which send their weights to verl's servers."""
        from learner.verl.worker import LearnerWorker

        return Ranks(self._group.workers, LearnerWorker)

    def save(self, directory: str | Path, done: Callable[[], None]) -> None:
        """See `Trainer.save`: `policy/` in the Hugging Face layout; weights, optimizer, schedule and random states in `training/`.

        It returns when every worker has copied its part to its own memory. Every worker must see the directory, and the first one
        calls `done`. Raises FileExistsError if the directory holds a checkpoint already.
        """
        fs, path = url_to_fs(str(directory))
        if fs.exists(f"{path}/training"):
            raise FileExistsError(f"{directory} holds a checkpoint already")
        self._on_ranks("save", _seen_by_workers(directory), done)

    def finish_saving(self) -> None:
        """See `Trainer.finish_saving`."""
        self._on_ranks("finish_saving")

    def load(self, directory: str | Path) -> None:
        """Continue from a checkpoint of `save`; with as many workers as then, bit for bit as if training had not stopped.

        Checkpoints of version 0.1 are read as well, from a local directory. Raises FileNotFoundError if it is not a checkpoint.
        """
        fs, path = url_to_fs(str(directory))
        if not (fs.exists(f"{path}/training/.metadata") or fs.exists(f"{path}/optimizer/optimizer.pt")):
            raise FileNotFoundError(f"{directory} is not a checkpoint: it has no training/.metadata")
        self._on_ranks("load", _seen_by_workers(directory))

    def reset_optimizer(self) -> None:
        """Forget the optimizer's moments, as when RL follows supervised training."""
        self._on_ranks("reset_optimizer")

    @property
    def actors(self) -> list[Any]:
        """The handles of the learner's processes."""
        return self._group.workers

    def shutdown(self) -> None:
        """End the workers and give their resources back to Ray."""
        for worker in self._group.workers:
            ray.kill(worker)
        for reserved in self._pool.pgs or ():
            ray.util.remove_placement_group(reserved)

    def _on_ranks(self, call: str, *arguments: Any) -> Any:
        """What all ranks answer to a call of `LearnerWorker`.

        Raises what a rank raised on purpose, without the traceback that Ray puts into its message, and FleetError if a GPU is full.
        """
        try:
            return getattr(self._group, call)(*arguments)
        except RayTaskError as error:
            if isinstance(error.cause, ToolwiseError):
                raise error.cause from None
            if isinstance(error.cause, torch.OutOfMemoryError):
                raise FleetError(
                    f"the learner's GPU is full: {str(error.cause).partition('. GPU')[0]}: lower learner.micro_batch_tokens="
                    f"{self.config.micro_batch_tokens}, or spread the learner over more GPUs (learner.workers, topology=); "
                    "resume=true goes on from the last checkpoint"
                ) from error
            raise

    def _put(self, batch: Batch) -> ray.ObjectRef:
        """The batch in Ray's object store; asked twice for the same batch, it is sent once."""
        if self._sent is None or self._sent[0] is not batch:
            self._sent = batch, ray.put(batch)
        return self._sent[1]

    def _settings(self, batch: Batch, shares: list[np.ndarray], mini_batches: int = 1) -> dict[str, Any]:
        """verl's options of a pass over the batch."""
        size = len(shares[0]) // mini_batches
        longest = int(batch.lengths_N.max())
        return {
            "use_remove_padding": True,
            "use_dynamic_bsz": True,
            "max_token_len_per_gpu": max(self.config.micro_batch_tokens, longest),
            "mini_batch_size": size * self._ranks,
            "mini_batches": mini_batches,
        }


def _first_and_used(of_ranks: Sequence[dict[str, float] | None]) -> tuple[dict[str, float], dict[str, float]]:
    """The metrics of the first rank, and the most memory that any used. Ranks on CPUs count none of a GPU's."""
    metrics = [one for one in of_ranks if one is not None]
    used = {name: max(one[name] for one in metrics) for name in metrics[0] if name.startswith("perf/")}
    return metrics[0], {name: value for name, value in used.items() if value > 0}


def _warn_of_skipped(metrics: dict[str, float]) -> None:
    if metrics["skipped_updates"]:
        log.warning(
            "%d optimizer steps were left out, since their gradient was not finite: if it goes on, lower the learning rate, or go "
            "back to an earlier checkpoint",
            metrics["skipped_updates"],
        )


def _seen_by_workers(directory: str | Path) -> str:
    """A path or URL that means the same in a process with another working directory."""
    return str(directory) if "://" in str(directory) else os.path.abspath(directory)


def _require_trained_tokens(batch: Batch) -> None:
    if batch.trained_tokens == 0:
        raise ValueError("no token of this batch is to be trained on: none was sampled")
