"""The worker behind `learner.verl.trainer`: verl's TrainingWorker with the few things that it lacks.

One process per rank. Every call reaches all ranks with the same arguments; each takes its own rows of the batch. Only
`learner.verl.trainer` imports this module.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict
from torch.distributed.fsdp import CPUOffloadPolicy
from verl.single_controller.base.decorator import Dispatch, register
from verl.utils import tensordict_utils as tu
from verl.utils.device import get_device_name
from verl.utils.distributed import initialize_global_process_group_ray
from verl.workers.engine.fsdp import transformer_impl
from verl.workers.engine_workers import TrainingWorker

from learner.batch import Batch
from learner.config import LearnerConfig
from learner.verl import checkpoints
from learner.verl.advantages import token_advantages
from learner.verl.images import ImageTable, PatchMaker, positions
from learner.verl.losses import correct, over_ranks
from learner.verl.model import engine
from learner.verl.objective import policy_loss, supervised_loss
from learner.verl.passthrough import bypasses, corrects, has_adapter, needs_reference
from learner.verl.rows import PolicyTargets, Rows
from learner.verl.settings import actor_config, reference_config, worker_config
from learner.verl.shares import FILLER

engine.register()

if get_device_name() == "cpu":
    # verl keeps a reference policy in pinned memory, which there is only beside an accelerator.
    transformer_impl.CPUOffloadPolicy = lambda pin_memory: CPUOffloadPolicy(pin_memory=False)  # ty: ignore[invalid-assignment]

COMPARED = ("old_log_probs", "ref_log_prob", "rollout_log_probs")
LOSSES = {"supervised": supervised_loss, "policy": policy_loss}
_on_all_ranks = register(dispatch_mode=Dispatch.ONE_TO_ALL)  # ty: ignore[missing-attribute]


class LearnerWorker(TrainingWorker):
    """One rank. `policy_dir` is in the Hugging Face layout; `banned_token_ids` are taken out of the distribution."""

    engine: Any

    def __init__(self, policy_dir: str, config: LearnerConfig, seed: int, banned_token_ids: list[int]) -> None:
        torch.set_num_threads(config.threads_per_worker)
        torch.manual_seed(seed)
        if get_device_name() == "cpu":
            # verl would ask for "cpu:gloo,cpu:gloo", which names a device twice.
            initialize_global_process_group_ray(backend="gloo")
        super().__init__(worker_config(policy_dir, config, seed))
        self.reset()
        self.module = self.engine.module
        self.processor = self.model_config.processor
        self.settings, self.banned_token_ids = config, banned_token_ids
        self.reference: TrainingWorker | None = None
        self.losses = {name: partial(loss, config=actor_config(config)) for name, loss in LOSSES.items()}
        if config.freeze_vision:
            for name, parameter in self.module.named_parameters():
                if "visual." in name:
                    parameter.requires_grad_(False)
        self.patch_maker = PatchMaker(self.processor)
        self.images = ImageTable(self.module)
        self.engine.head.ban(banned_token_ids)

    @_on_all_ranks
    def data_parallel_size(self) -> int:
        """Among how many ranks the rows of a batch are divided."""
        return self.engine.get_data_parallel_size()

    @_on_all_ranks
    def infer(
        self, batch: Batch, shares: list[np.ndarray], settings: dict[str, Any]
    ) -> tuple[np.ndarray, np.ndarray | None] | None:
        """Log-probabilities and, if asked for, entropies of the tokens of this rank's rows, one after another; 0 if not sampled.

        None on ranks that only help another one.
        """
        rows = self._rows(batch, shares)
        output = self._infer(rows, settings)
        if output is None:
            return None
        names = ("log_probs", "entropy") if settings["calculate_entropy"] else ("log_probs",)
        log_probs, *entropies = (rows.predictions(output[name])[rows.inside_S] for name in names)
        return log_probs, entropies[0] if entropies else None

    @_on_all_ranks
    def update(
        self,
        loss: str,
        batch: Batch,
        shares: list[np.ndarray],
        settings: dict[str, Any],
        lr: float,
        targets: PolicyTargets | None = None,
    ) -> dict[str, float] | None:
        """Optimizer steps over this rank's rows with `loss` "supervised" or "policy"; metrics are means over the steps.

        None on ranks that only help another one.
        """
        for group in self.engine.optimizer.param_groups:
            group["lr"] = lr
        self.loss_fn = self.losses[loss]
        rows = self._rows(batch, shares)
        rows, columns, measured = self._policy_columns(rows, settings, targets) if targets else (rows, {}, {})
        output = self.train_mini_batch(self._data(rows, settings, columns))
        if output is None:
            return None
        metrics = tu.get(output, "metrics")
        steps = {name: float(np.max(value) if name.endswith("_max") else np.mean(value)) for name, value in metrics.items()}
        return steps | measured

    @_on_all_ranks
    def refer_to(self, policy_dir: str) -> None:
        """Load the reference policy, from a directory in the Hugging Face layout."""
        reference = TrainingWorker(reference_config(policy_dir, self.settings, self.engine_config.seed))
        reference.reset()
        made: Any = reference.engine
        self.images.watch(made.module)
        made.head.ban(self.banned_token_ids)
        self.reference = reference

    @_on_all_ranks
    def reset_optimizer(self) -> None:
        """Forget the optimizer's moments and step counts."""
        self.engine.optimizer.state.clear()

    @_on_all_ranks
    def full_state(self) -> dict[str, torch.Tensor] | None:
        """All weights under their checkpoint names, on CPU; None on ranks other than 0."""
        return checkpoints.full_state(self.engine, self.rank, tied=self._tied)

    @_on_all_ranks
    def save(self, directory: str) -> None:
        """See `learner.verl.checkpoints.save`."""
        checkpoints.save(self.engine, self.rank, directory, tied=self._tied)

    @_on_all_ranks
    def load(self, directory: str) -> None:
        """See `learner.verl.checkpoints.load`."""
        checkpoints.load(self.engine, self.rank, directory)

    @property
    def _tied(self) -> bool:
        return self.model_config.hf_config.tie_word_embeddings

    def _rows(self, batch: Batch, shares: list[np.ndarray]) -> Rows:
        return Rows.fetch(batch, shares[self.engine.get_data_parallel_rank()])

    def _infer(self, rows: Rows, settings: dict[str, Any], worker: TrainingWorker | None = None) -> Any:
        return (worker or self).infer_batch(self._data(rows, settings | {"compute_loss": False}))

    def _log_probs(self, rows: Rows, settings: dict[str, Any], *, of_reference: bool = False) -> np.ndarray:
        """Log-probabilities of all tokens of the rows, 0 if not sampled; also on ranks that only help another one."""
        settings = settings | {"calculate_entropy": False}
        if of_reference and has_adapter(self.settings):
            settings["no_lora_adapter"] = True
        elif of_reference and self.reference is None:
            raise RuntimeError("the objective compares the policy with a reference: call refer_to() first")
        output = self._infer(rows, settings, self.reference if of_reference else None)
        found = [None if output is None else rows.predictions(output["log_probs"])]
        if (helpers := self.engine.ulysses_parallel_group) is not None:
            torch.distributed.broadcast_object_list(found, group=helpers, group_src=0)
        assert found[0] is not None
        return found[0]

    def _policy_columns(
        self, rows: Rows, settings: dict[str, Any], targets: PolicyTargets
    ) -> tuple[Rows, dict[str, torch.Tensor], dict[str, float]]:
        """What `learner.verl.objective.policy_loss` reads of each row beside the tokens, with metrics; and the rows without tokens
        that the correction rejects."""
        columns, measured = self._given_columns(rows, targets), {}
        if bypasses(self.settings):
            columns["old_log_probs"] = columns["rollout_log_probs"]
        elif targets.recompute_old:
            columns["old_log_probs"] = rows.jagged_after_first(self._log_probs(rows, settings))
        if needs_reference(self.settings):
            columns["ref_log_prob"] = rows.jagged_after_first(self._log_probs(rows, settings, of_reference=True))
        group = self.engine.get_data_parallel_group()
        padded = {name: torch.nested.to_padded_tensor(columns[name], 0) for name in (*COMPARED, "response_mask") if name in columns}
        old, reference, sampler = (padded.get(name) for name in COMPARED)
        mask = padded["response_mask"]
        if targets.outcomes is not None:
            advantages, found = token_advantages(
                self.settings, targets.outcomes, np.maximum(rows.episodes_R, 0), mask, old, reference, group
            )
            columns["advantages"] = rows.jagged_of_padded(advantages)
            measured |= found
        if corrects(self.settings) and old is not None and sampler is not None:
            weights, kept, found = correct(self.settings, old, sampler, mask)
            measured |= over_ranks(found, float(mask.sum()), group)
            if weights is not None:
                columns["rollout_is_weights"] = rows.jagged_of_padded(weights)
            rejected = mask.bool() & ~kept.bool()
            rows = rows.without(rejected)
            columns["response_mask"] = rows.jagged_after_first(rows.loss_mask_S.astype(np.int64))
            left = columns["tokens"] - self._of_mini_batches(rejected, len(targets.tokens_M), group)
            columns["tokens"] = left.clamp(min=1)
        return rows, columns, measured

    def _of_mini_batches(self, flags: torch.Tensor, mini_batches: int, group: Any) -> torch.Tensor:
        """For each row, how many of the flags are set in its mini-batch over all ranks."""
        counts = torch.stack([part.sum() for part in flags.chunk(mini_batches)])
        torch.distributed.all_reduce(counts, group=group)
        return counts.repeat_interleave(len(flags) // mini_batches)

    def _given_columns(self, rows: Rows, targets: PolicyTargets) -> dict[str, torch.Tensor]:
        """The columns that need no pass through a model."""
        advantages_R = np.where(rows.episodes_R == FILLER, 0, targets.advantages_E[rows.episodes_R]).astype(np.float32)
        # Everything after the first token counts as response: prompts, actions and observations are told apart by the mask.
        first = rows.tokens_S[~rows.after_first_S]
        columns = {
            "prompts": torch.nested.nested_tensor_from_jagged(torch.from_numpy(first), torch.arange(len(rows) + 1)),
            "responses": rows.jagged_after_first(rows.tokens_S),
            "response_mask": rows.jagged_after_first(rows.loss_mask_S.astype(np.int64)),
            "rollout_log_probs": rows.jagged_after_first(rows.logprobs_S),
            "advantages": rows.jagged_after_first(np.repeat(advantages_R, rows.lengths_R)),
        }
        for name, values_M in (("tokens", targets.tokens_M), ("sequences", targets.sequences_M)):
            columns[name] = torch.from_numpy(np.repeat(values_M, len(rows) // len(values_M)))
        return columns

    def _data(self, rows: Rows, settings: dict[str, Any], columns: dict[str, torch.Tensor] | None = None) -> TensorDict:
        """verl's form of some rows: jagged tensors and, for images, one dictionary a row."""
        patches = self.patch_maker.patches(rows)
        tensors: dict[str, Any] = {
            "input_ids": rows.jagged(rows.tokens_S),
            "position_ids": positions(self.processor, rows, patches),
            "loss_mask": rows.jagged(rows.loss_mask_S.astype(np.int64)),
            **(columns or {}),
        }
        if patches:
            tensors["multi_modal_inputs"] = self.images.fill(rows, patches)
        temperatures = rows.temperatures_R
        if settings.get("temperature") is None and (temperatures != temperatures[0]).any():
            tensors["temperature"] = torch.from_numpy(temperatures)
        else:
            settings = settings | {"temperature": settings.get("temperature") or float(temperatures[0])}
        return tu.get_tensordict(tensors, settings)
