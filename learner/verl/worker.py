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
from verl.workers.utils.losses import ppo_loss, sft_loss

from learner.batch import Batch
from learner.config import LearnerConfig
from learner.verl import checkpoints
from learner.verl.head import Ban
from learner.verl.images import ImageTable, positions
from learner.verl.sender import WeightSender
from learner.verl.settings import actor_config, worker_config

if get_device_name() == "cpu":
    from verl.utils.torch_functional import logprobs_from_logits_naive

    EngineRegistry.register(model_type="language_model", backend="fsdp2", device="cpu")(transformer_impl.FSDPEngineWithLMHead)
    # Without flash-attention's kernel verl walks over the tokens one by one in Python, which costs as much as a small model.
    transformer_impl.logprobs_from_logits = logprobs_from_logits_naive  # ty: ignore[invalid-assignment]

LOSSES = {"supervised": sft_loss, "policy": ppo_loss}
_on_all_ranks = register(dispatch_mode=Dispatch.ONE_TO_ALL)  # ty: ignore[missing-attribute]


class LearnerWorker(WeightSender, TrainingWorker):
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
        self.images = ImageTable(self.module)
        if banned_token_ids:
            self.module.get_output_embeddings().register_forward_hook(Ban(banned_token_ids))

    @_on_all_ranks
    def infer(self, batch: Batch, cells: list[np.ndarray], settings: dict[str, Any]) -> tuple[np.ndarray, np.ndarray | None]:
        """Log-probabilities and, if asked for, entropies of all tokens of this rank's rows, shape (rows, T); 0 in column 0."""
        rows = cells[self.rank]
        data = self._data(batch, rows, settings | {"compute_loss": False})
        output = self.infer_batch(data)
        shape = len(rows), batch.tokens_N_T.shape[1]
        entropy = _shifted(output["entropy"], shape) if settings["calculate_entropy"] else None
        return _shifted(output["log_probs"], shape), entropy

    @_on_all_ranks
    def update(
        self, loss: str, batch: Batch, cells: list[np.ndarray], settings: dict[str, Any], lr: float, targets: dict[str, np.ndarray]
    ) -> dict[str, float]:
        """Optimizer steps over this rank's rows with `loss` "supervised" or "policy"; metrics are means over the steps."""
        for group in self.engine.optimizer.param_groups:
            group["lr"] = lr
        self.loss_fn = self.losses[loss]
        data = self._data(batch, cells[self.rank], settings, targets)
        metrics = tu.get(self.train_mini_batch(data), "metrics")
        return {name: float(np.mean(value)) for name, value in metrics.items()}

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

    def _data(
        self, batch: Batch, rows: np.ndarray, settings: dict[str, Any], targets: dict[str, np.ndarray] | None = None
    ) -> TensorDict:
        """verl's form of some rows: jagged tensors and, for images, one dictionary a row. Negative rows are filler without loss."""
        filler, rows = rows < 0, np.maximum(rows, 0)
        lengths = batch.lengths_N[rows]
        mask = batch.loss_mask_N_T[rows] & ~filler[:, None]
        inside = np.arange(batch.tokens_N_T.shape[1]) < lengths[:, None]
        # Everything after the first token counts as response: prompts, actions and observations are told apart by the mask.
        tail = inside.copy()
        tail[:, 0] = False
        tensors: dict[str, Any] = {
            "input_ids": _jagged(batch.tokens_N_T[rows], inside),
            "position_ids": positions(self.processor, batch, rows, lengths),
            "loss_mask": _jagged(mask.astype(np.int64), inside),
        }
        if targets:
            tensors["prompts"] = _jagged(batch.tokens_N_T[rows][:, :1], inside[:, :1])
            tensors["responses"] = _jagged(batch.tokens_N_T[rows], tail)
            tensors["response_mask"] = _jagged(mask.astype(np.int64), tail)
            tensors |= {name: _jagged(values[rows], tail) for name, values in targets.items()}
        if len(batch.grids_U_3):
            tensors["multi_modal_inputs"] = [self.images.row(batch, row) for row in rows]
        temperatures = batch.temperatures_N[rows]
        if settings.get("temperature") is None and (temperatures != temperatures[0]).any():
            tensors["temperature"] = torch.from_numpy(temperatures)
        else:
            settings = settings | {"temperature": settings.get("temperature") or float(temperatures[0])}
        return tu.get_tensordict(tensors, settings)


def _jagged(values: np.ndarray, inside: np.ndarray) -> torch.Tensor:
    """The entries of a padded array that lie inside, as a jagged tensor."""
    offsets = np.concatenate([[0], inside.sum(axis=1).cumsum()])
    return torch.nested.nested_tensor_from_jagged(torch.from_numpy(values[inside]), torch.from_numpy(offsets))


def _shifted(jagged: Any, shape: tuple[int, int]) -> np.ndarray:
    """verl files a prediction under the token before; move it to the token that it is about."""
    padded = torch.zeros(shape)
    lengths = jagged.offsets().diff()
    values = torch.nested.to_padded_tensor(jagged.float(), 0.0)
    inside = torch.arange(1, values.shape[1]) < lengths[:, None]
    padded[:, 1 : values.shape[1]] = values[:, :-1] * inside
    return padded.numpy()
