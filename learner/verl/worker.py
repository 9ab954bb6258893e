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
from verl.single_controller.base.decorator import Dispatch, register
from verl.utils import tensordict_utils as tu
from verl.utils.device import get_device_name
from verl.utils.distributed import initialize_global_process_group_ray
from verl.workers.engine import EngineRegistry
from verl.workers.engine.fsdp import transformer_impl
from verl.workers.engine_workers import TrainingWorker

from learner.batch import Batch
from learner.config import LearnerConfig
from learner.verl import checkpoints
from learner.verl.head import Ban
from learner.verl.images import ImageTable, PatchMaker, positions
from learner.verl.objective import policy_loss, supervised_loss
from learner.verl.rows import PolicyTargets, Rows
from learner.verl.settings import actor_config, worker_config
from learner.verl.shares import FILLER

if get_device_name() == "cpu":
    from verl.utils.torch_functional import logprobs_from_logits_naive

    EngineRegistry.register(model_type="language_model", backend="fsdp2", device="cpu")(transformer_impl.FSDPEngineWithLMHead)
    # Without flash-attention's kernel verl walks over the tokens one by one in Python, which costs as much as a small model.
    transformer_impl.logprobs_from_logits = logprobs_from_logits_naive  # ty: ignore[invalid-assignment]

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
        self.losses = {name: partial(loss, config=actor_config(config)) for name, loss in LOSSES.items()}
        if config.freeze_vision:
            for name, parameter in self.module.named_parameters():
                if "visual." in name:
                    parameter.requires_grad_(False)
        self.patch_maker = PatchMaker(self.processor)
        self.images = ImageTable(self.module)
        if banned_token_ids:
            self.module.get_output_embeddings().register_forward_hook(Ban(banned_token_ids))

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
    ) -> dict[str, float]:
        """Optimizer steps over this rank's rows with `loss` "supervised" or "policy"; metrics are means over the steps."""
        for group in self.engine.optimizer.param_groups:
            group["lr"] = lr
        self.loss_fn = self.losses[loss]
        rows = self._rows(batch, shares)
        columns = self._policy_columns(rows, settings, targets) if targets else {}
        metrics = tu.get(self.train_mini_batch(self._data(rows, settings, columns)), "metrics")
        return {name: float(np.max(value) if name.endswith("_max") else np.mean(value)) for name, value in metrics.items()}

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

    def _infer(self, rows: Rows, settings: dict[str, Any]) -> Any:
        return self.infer_batch(self._data(rows, settings | {"compute_loss": False}))

    def _policy_columns(self, rows: Rows, settings: dict[str, Any], targets: PolicyTargets) -> dict[str, torch.Tensor]:
        """What `learner.verl.objective.policy_loss` reads of each row beside the tokens."""
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
        if targets.recompute_old:
            output = self._infer(rows, settings | {"calculate_entropy": False})
            columns["old_log_probs"] = rows.jagged_after_first(rows.predictions(output["log_probs"]))
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
