"""The worker behind `learner.verl.trainer`: verl's TrainingWorker with the few things that it lacks.

One process per rank. Every call reaches all ranks with the same arguments; each takes its own rows of the batch. Only
`learner.verl.trainer` imports this module.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from envs.runtime.garbage import importing

with importing():  # Ray imports this module in each rank's process
    import torch
    from tensordict import TensorDict
    from torch.distributed.fsdp import CPUOffloadPolicy
    from transformers import AutoProcessor
    from verl.single_controller.base.decorator import Dispatch, register
    from verl.utils import tensordict_utils as tu
    from verl.utils.checkpoint.checkpoint_manager import BaseCheckpointManager
    from verl.utils.device import get_device_name, get_torch_device
    from verl.utils.distributed import initialize_global_process_group_ray
    from verl.workers.engine.fsdp import transformer_impl
    from verl.workers.engine_workers import TrainingWorker

from learner.batch import Batch
from learner.config import LearnerConfig
from learner.verl import probe
from learner.verl.configuration.passthrough import bypasses, corrects, has_adapter, needs_reference
from learner.verl.configuration.settings import actor_config, reference_config, worker_config
from learner.verl.images import ImageMaker, ImageTable, seeing_model, vision_parameters
from learner.verl.model import engine
from learner.verl.model.loading import local_copy, whole_policy
from learner.verl.objective.advantages import token_advantages
from learner.verl.objective.losses import correct, over_ranks
from learner.verl.objective.policy import policy_loss, supervised_loss, supervised_sequence_loss
from learner.verl.recording import ROW, Recording, Watch
from learner.verl.rows import PolicyTargets, Rows
from learner.verl.shares import FILLER
from learner.verl.state import older_checkpoints
from learner.verl.state.checkpoints import Checkpointer
from learner.verl.state.policy_files import PolicyFiles
from learner.verl.state.sender import WeightSender
from learner.verl.state.weights import Publisher
from rollout.cluster.weights import Weights
from rollout.tokens.image_layout import image_layout

engine.register()

if get_device_name() == "cpu":
    # verl keeps a reference policy in pinned memory, which there is only beside an accelerator.
    transformer_impl.CPUOffloadPolicy = lambda pin_memory: CPUOffloadPolicy(pin_memory=False)  # ty: ignore[invalid-assignment]

COMPARED = ("old_log_probs", "ref_log_prob", "rollout_log_probs")
LOSSES = {"supervised": supervised_loss, "supervised_sequence": supervised_sequence_loss, "policy": policy_loss}
_on_all_ranks = register(dispatch_mode=Dispatch.ONE_TO_ALL)  # ty: ignore[missing-attribute]


class Rank(WeightSender, TrainingWorker):
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
        self.settings, self.banned_token_ids = config, banned_token_ids
        self.reference: tuple[TrainingWorker, ImageTable] | None = None
        self.losses = {name: partial(loss, config=actor_config(config)) for name, loss in LOSSES.items()}
        if config.freeze_vision:
            for parameter in vision_parameters(self.module):
                parameter.requires_grad_(False)
        self.layout = None
        if seeing_model(self.module) is not None:
            with whole_policy(policy_dir):
                self.layout = image_layout(AutoProcessor.from_pretrained(policy_dir))
        self.image_maker = ImageMaker(self.layout)
        self.images = ImageTable(self.module, self.layout)
        self.engine.head.ban(banned_token_ids)
        self.publisher = Publisher(self.engine, self.rank, tied=self._tied)
        self.recording = Recording(self.engine.get_data_parallel_rank(), self.engine.get_data_parallel_size())
        self.policy_files = PolicyFiles(self.module, policy_dir, config.export_dtype, tied=self._tied)
        self.checkpointer = Checkpointer(self.module, self.engine.optimizer, self.engine.lr_scheduler, self._export)
        allowed = sorted(set(range(self.model_config.hf_config.get_text_config().vocab_size)) - set(banned_token_ids))
        probe.check(self._probed, policy_dir, config.precision, allowed[:32], self.layout)

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
        """Optimizer steps over this rank's rows with one of the `LOSSES`; metrics are means over the steps.

        Steps whose gradient is not finite, which verl leaves out, are `skipped_updates`, and not in the mean of `grad_norm`.
        None on ranks that only help another one.
        """
        for group in self.engine.optimizer.param_groups:
            if isinstance(group["lr"], torch.Tensor):  # an optimizer that is compiled, such as torchao's
                group["lr"].fill_(lr)
            else:
                group["lr"] = lr
        self.loss_fn = self.losses[loss]
        fetched = self._rows(batch, shares)
        rows, columns, measured = self._policy_columns(fetched, settings, targets) if targets else (fetched, {}, {})
        files, watch = targets.files if targets else None, None
        if files is not None and ("old_log_probs" not in columns or bypasses(self.settings)):
            self.loss_fn = watch = Watch(self.loss_fn, len(rows) // settings["mini_batches"])
            columns[ROW] = torch.arange(len(rows))
        if loss == "supervised_sequence":
            columns = {"token_weights": rows.jagged(rows.sequence_weights_S(int((batch.trained_N > 0).sum())))}
        output = self.train_mini_batch(self._data(rows, settings, columns))
        if output is None:
            return None
        if files is not None:
            if watch is not None:
                log_probs = watch.log_probs_S(fetched, rows.loss_mask_S)
            else:
                log_probs = rows.with_first(columns["old_log_probs"]), np.ones(len(rows), dtype=bool)
            groups_E, advantages_S = batch.group_ids_E, rows.with_first(columns["advantages"])
            groups_R = [groups_E[episode] for episode in rows.episodes_R]
            self.recording.write(files, groups_R, fetched, advantages_S, rows.loss_mask_S, log_probs)
        metrics = tu.get(output, "metrics")
        steps = {name: float(np.max(value) if _is_a_most(name) else np.mean(value)) for name, value in metrics.items()}
        norms = np.atleast_1d(metrics["grad_norm"])
        finite = norms[np.isfinite(norms)]
        taken = {"grad_norm": float(finite.mean()) if len(finite) else math.nan, "skipped_updates": float(len(norms) - len(finite))}
        return steps | measured | taken

    @_on_all_ranks
    def refer_to(self, policy_dir: str) -> None:
        """Load the reference policy, from a directory in the Hugging Face layout or the URL of one."""
        with local_copy(policy_dir) as directory:
            reference = TrainingWorker(reference_config(directory, self.settings, self.engine_config.seed))
            reference.reset()  # loads the weights
        made: Any = reference.engine
        made.head.ban(self.banned_token_ids)
        self.reference = reference, ImageTable(made.module, self.layout)

    @_on_all_ranks
    def reset_optimizer(self) -> None:
        """Forget the optimizer's moments and step counts."""
        self.engine.optimizer.state.clear()

    @_on_all_ranks
    def share_weights(self, dtype: str, aside: bool = False) -> Weights | None:
        """See `learner.verl.state.weights.Publisher`."""
        return self.publisher.share(dtype, aside=aside)

    @_on_all_ranks
    def save(self, directory: str, done: Callable[[], None]) -> None:
        """See `Checkpointer.save`."""
        get_torch_device().synchronize()  # what verl offloads may still be on its way to the host, where it is read
        self.checkpointer.save(directory, BaseCheckpointManager.get_rng_state(), done)

    @_on_all_ranks
    def finish_saving(self) -> None:
        """See `Checkpointer.finish`."""
        self.checkpointer.finish()

    @_on_all_ranks
    def load(self, directory: str) -> None:
        """See `Checkpointer.load`; a rank whose random state was not saved keeps its own."""
        get_torch_device().synchronize()  # as before a save
        if Path(directory, older_checkpoints.PARTS[1]).exists():
            random_state = older_checkpoints.load(self.module, self.engine.optimizer, Path(directory), self.rank)
        else:
            random_state = self.checkpointer.load(directory)
        if self.engine.is_param_offload_enabled != self.engine.is_optimizer_offload_enabled:
            # Moments are read to where the weights are, and these wait elsewhere.
            device = "cpu" if self.engine.is_optimizer_offload_enabled else get_device_name()
            self.engine.to(device, model=False, grad=False)
        if random_state is not None:
            BaseCheckpointManager.load_rng_state(random_state)

    @property
    def _tied(self) -> bool:
        return self.model_config.hf_config.tie_word_embeddings

    def _export(self, training: str, policy: str, rank: int, ranks: int) -> None:
        """This rank's part of a checkpoint's policy; the checkpoint is there only if what was learned before it is on disk."""
        self.recording.finish()
        self.policy_files(training, policy, rank, ranks)

    def _rows(self, batch: Batch, shares: list[np.ndarray]) -> Rows:
        return Rows.fetch(batch, shares[self.engine.get_data_parallel_rank()])

    def _probed(self, batch: Batch) -> np.ndarray:
        """The log-probabilities of a short batch, of which every rank computes all rows together."""
        settings = {"use_dynamic_bsz": True, "max_token_len_per_gpu": int(batch.lengths_N.sum()), "calculate_entropy": False}
        return self._log_probs(self._rows(batch, [np.arange(len(batch))] * self.engine.get_data_parallel_size()), settings)

    def _infer(self, rows: Rows, settings: dict[str, Any], reference: tuple[TrainingWorker, ImageTable] | None = None) -> Any:
        worker, table = reference or (self, self.images)
        return worker.infer_batch(self._data(rows, settings | {"compute_loss": False}, table=table))

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
            measured |= over_ranks(self.settings, found, mask, group)
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

    def _data(
        self,
        rows: Rows,
        settings: dict[str, Any],
        columns: dict[str, torch.Tensor] | None = None,
        table: ImageTable | None = None,
    ) -> TensorDict:
        """verl's form of some rows: jagged tensors and, for images, one dictionary a row. `table` is that of the model to come."""
        table, images = table or self.images, self.image_maker.prepare(rows)
        tensors: dict[str, Any] = {
            "input_ids": rows.jagged(rows.tokens_S),
            "position_ids": table.positions(rows, images),
            "loss_mask": rows.jagged(rows.loss_mask_S.astype(np.int64)),
            **(columns or {}),
        }
        if images:
            tensors["multi_modal_inputs"] = table.fill(rows, images)
        temperatures = rows.temperatures_R
        if settings.get("temperature") is None and (temperatures != temperatures[0]).any():
            tensors["temperature"] = torch.from_numpy(temperatures)
        else:
            settings = settings | {"temperature": settings.get("temperature") or float(temperatures[0])}
        return tu.get_tensordict(tensors, settings)


class LearnerWorker(Rank):
    """A rank as an actor of Ray, of whose constructor's errors Ray keeps the text alone: the first call raises them."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        self._failure: Exception | None = None
        try:
            super().__init__(*arguments, **named)
        except Exception as error:
            self._failure = error

    @_on_all_ranks
    def data_parallel_size(self) -> int:
        """See `Rank`, and raises what went wrong before."""
        if self._failure is not None:
            raise self._failure
        return super().data_parallel_size()


def _is_a_most(name: str) -> bool:
    return name.endswith("_max") or name.startswith("perf/")
