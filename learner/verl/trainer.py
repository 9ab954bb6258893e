"""A trainer on verl: a group of its training workers on Ray behind plain arrays.

Only this package imports verl. Ray must be running. The axes
E (episodes), N (sequences) and T (tokens) are those of `learner.batch`.
"""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from ray.util.placement_group import placement_group

from learner.batch import Batch
from learner.config import LearnerConfig
from learner.trainer import Trainer
from rollout.engines.verl.servers import Ranks

WEIGHT_FILES = ("*.safetensors", "*.safetensors.index.json", "*.bin", "*.pt", "*.pth")


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
        environment = {}
        if config.gpus_per_worker == 0:
            environment = {"VERL_PLATFORM": "cpu", "VERL_USE_EXTERNAL_MODULES": "rollout.engines.verl.cpu_platform"}
            os.environ.update(environment)
            # If others want the cores too, threads that wait by spinning make a step several times slower.
            environment["OMP_WAIT_POLICY"] = "PASSIVE"
        os.environ.setdefault("VERL_LOGGING_LEVEL", "WARNING")
        # Imported late: verl settles on a platform while it is imported, and warns of every engine that is not installed.
        with warnings.catch_warnings(action="ignore", category=UserWarning):
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
        ray.get([worker.__ray_ready__.remote() for worker in self._group.workers])

    def log_probs(self, batch: Batch, with_entropy: bool = True) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Log-probabilities and entropies (both N x T, natural logarithm) of the sampled tokens, at their temperature.

        Entry (n, t) belongs to token t of sequence n; it is 0 if `loss_mask_N_T` is False there.
        """
        cells = _cells(len(batch), self.config.workers, 1)
        settings = self._settings(batch, cells) | {"calculate_entropy": with_entropy}
        parts = self._group.infer(self._put(batch), cells, settings)
        log_probs, entropies = torch.zeros(batch.tokens_N_T.shape), torch.zeros(batch.tokens_N_T.shape)
        for rows, (log_probs_part, entropies_part) in zip(cells, parts, strict=True):
            real = rows >= 0
            log_probs[rows[real]] = torch.from_numpy(log_probs_part[real])
            if with_entropy:
                entropies[rows[real]] = torch.from_numpy(entropies_part[real])
        mask = torch.from_numpy(batch.loss_mask_N_T)
        # where(), not a product: banned tokens in prompts have log-probabilities near minus infinity.
        log_probs = torch.where(mask, log_probs, 0.0)
        return log_probs, torch.where(mask, entropies, 0.0) if with_entropy else None

    def supervised_step(self, batch: Batch, lr: float) -> dict[str, float]:
        """One optimizer step on the mean negative log-likelihood of the sampled tokens, at temperature 1.

        Returns `train/loss`, `train/grad_norm` (before clipping) and `train/lr`.
        """
        _require_trained_tokens(batch)
        cells = _cells(len(batch), self.config.workers, 1)
        settings = self._settings(batch, cells) | {"temperature": 1.0}
        metrics = self._group.update("supervised", self._put(batch), cells, settings, lr, {})[0]
        return {"train/loss": metrics["loss"], "train/grad_norm": metrics["grad_norm"], "train/lr": lr}

    def policy_step(self, batch: Batch, advantages: np.ndarray, old_log_probs: torch.Tensor, lr: float) -> dict[str, float]:
        """`ppo_epochs` passes in `mini_batches` optimizer steps each on the clipped policy objective, mean over tokens.

        `advantages` has shape (N,), one for all sampled tokens of a sequence; `old_log_probs` is N x T as `log_probs` returns it.
        Returns the means over the steps of verl's `actor/pg_loss`, `actor/ppo_kl`, `actor/pg_clipfrac`, `actor/pg_clipfrac_lower`,
        `actor/grad_norm` (before clipping), `actor/entropy_loss` if there is an entropy bonus, and `actor/lr`.
        """
        _require_trained_tokens(batch)
        if np.shape(advantages) != (len(batch),) or tuple(old_log_probs.shape) != batch.tokens_N_T.shape:
            raise ValueError(
                f"a batch of shape {batch.tokens_N_T.shape} needs advantages of shape ({len(batch)},) and old_log_probs "
                f"of its own shape, not {np.shape(advantages)} and {tuple(old_log_probs.shape)}"
            )
        mini_batches = max(1, min(self.config.mini_batches, len(batch) // self.config.workers))
        cells = _cells(len(batch), self.config.workers, mini_batches)
        settings = self._settings(batch, cells, mini_batches) | {
            "epochs": self.config.ppo_epochs,
            "calculate_entropy": self.config.entropy_coefficient != 0,
        }
        targets = {
            "advantages": np.broadcast_to(np.asarray(advantages, dtype=np.float32)[:, None], batch.tokens_N_T.shape),
            "old_log_probs": old_log_probs.numpy().astype(np.float32, copy=False),
        }
        metrics = self._group.update("policy", self._put(batch), cells, settings, lr, targets)[0]
        shown = {name: value for name, value in metrics.items() if name.startswith("actor/")}
        return shown | {"actor/grad_norm": metrics["grad_norm"], "actor/lr": lr}

    def advantages(self, rewards: np.ndarray, group_ids: Sequence[str]) -> np.ndarray:
        """GRPO's advantages (E,): each reward less its group's mean and, with `normalise_by_std`, over its standard deviation.

        A group of one or of equal rewards teaches nothing: its advantages are 0. Raises ValueError if lengths differ.
        """
        from verl.trainer.ppo.core_algos import compute_grpo_outcome_advantage

        rewards = np.asarray(rewards, dtype=np.float32)
        index = np.asarray(group_ids, dtype=object)
        if rewards.shape != index.shape:
            raise ValueError(f"{len(rewards)} rewards need as many group ids, not {len(index)}")
        scores, _ = compute_grpo_outcome_advantage(
            torch.from_numpy(rewards.copy())[:, None],
            torch.ones(len(rewards), 1),
            index,
            norm_adv_by_std_in_grpo=self.config.normalise_by_std,
        )
        advantages = scores[:, 0].numpy()
        # verl returns the bare reward for a group of one, and rounding noise over epsilon for equal rewards.
        for group in set(group_ids):
            members = index == group
            if np.ptp(rewards[members]) == 0:
                advantages[members] = 0.0
        return advantages

    def state_dict(self) -> dict[str, torch.Tensor]:
        """All weights, whole, float32, on CPU, under the names of a Hugging Face checkpoint."""
        return self._group.full_state()[0]

    def ranks(self) -> Ranks:
        """The workers, which send their weights to verl's servers."""
        from learner.verl.worker import LearnerWorker

        return Ranks(self._group.workers, LearnerWorker)

    def save(self, directory: Path) -> None:
        """Write a checkpoint: `policy/` in the Hugging Face layout, `optimizer/` with optimizer and random-number state.

        Every worker must see the directory. Raises FileExistsError if it holds a checkpoint already.
        """
        shutil.copytree(self.policy_dir, directory / "policy", ignore=shutil.ignore_patterns(*WEIGHT_FILES))
        (directory / "optimizer").mkdir()
        self._group.save(str(directory.absolute()))

    def load(self, directory: Path) -> None:
        """Continue from a checkpoint of `save`; with as many workers as then, bit for bit as if training had not stopped.

        Raises FileNotFoundError if it is not a checkpoint.
        """
        for part in ("policy/model.safetensors", "optimizer/optimizer.pt"):
            if not (directory / part).exists():
                raise FileNotFoundError(f"{directory} is not a checkpoint: it has no {part}")
        self._group.load(str(directory.absolute()))

    def reset_optimizer(self) -> None:
        """Forget the optimizer's moments, as when RL follows supervised training."""
        self._group.reset_optimizer()

    def shutdown(self) -> None:
        """End the workers and give their resources back to Ray."""
        for worker in self._group.workers:
            ray.kill(worker)
        for reserved in self._pool.pgs or ():
            ray.util.remove_placement_group(reserved)

    def _put(self, batch: Batch) -> ray.ObjectRef:
        """The batch in Ray's object store; asked twice for the same batch, it is sent once."""
        if self._sent is None or self._sent[0] is not batch:
            self._sent = batch, ray.put(batch)
        return self._sent[1]

    def _settings(self, batch: Batch, cells: list[np.ndarray], mini_batches: int = 1) -> dict[str, Any]:
        """verl's options of a pass over the batch."""
        size = len(cells[0]) // mini_batches
        longest = int(batch.lengths_N.max())
        whole = size * longest <= self.config.micro_batch_tokens
        return {
            "use_remove_padding": self.config.packed,
            "use_dynamic_bsz": not whole,
            "micro_batch_size_per_gpu": size,
            "max_token_len_per_gpu": max(self.config.micro_batch_tokens, longest),
            "mini_batch_size": size * self.config.workers,
            "global_batch_size": size * self.config.workers,
        }


def _cells(sequences: int, workers: int, mini_batches: int) -> list[np.ndarray]:
    """Which rows each worker takes, mini-batch after mini-batch, all of one size; -1 stands for filler."""
    parts = np.array_split(np.arange(sequences), mini_batches * workers)
    size = max(len(part) for part in parts)
    padded = [np.pad(part, (0, size - len(part)), constant_values=-1) for part in parts]
    return [np.concatenate(padded[worker::workers]) for worker in range(workers)]


def _require_trained_tokens(batch: Batch) -> None:
    if batch.trained_tokens == 0:
        raise ValueError("no token of this batch is to be trained on: loss_mask is 0 everywhere")
