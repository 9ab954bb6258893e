"""The worker behind `learner.verl.trainer`: verl's TrainingWorker with the few things that it lacks.

One process per rank. Every call reaches all ranks with the same arguments; each takes its own rows of the batch. Only
`learner.verl.trainer` imports this module.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tensordict import TensorDict
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers.core_model_loading import revert_weight_conversion
from verl.models.transformers.qwen2_vl import get_rope_index
from verl.single_controller.base.decorator import Dispatch, register
from verl.trainer.config import CheckpointConfig
from verl.utils import tensordict_utils as tu
from verl.utils.checkpoint.checkpoint_manager import BaseCheckpointManager
from verl.utils.device import get_device_name
from verl.utils.distributed import initialize_global_process_group_ray
from verl.workers.config import FSDPActorConfig, FSDPEngineConfig, FSDPOptimizerConfig, HFModelConfig, TrainingWorkerConfig
from verl.workers.engine import EngineRegistry
from verl.workers.engine.fsdp import transformer_impl
from verl.workers.engine_workers import TrainingWorker
from verl.workers.utils.losses import ppo_loss, sft_loss

from learner.batch import Batch
from learner.config import LearnerConfig

if get_device_name() == "cpu":
    from verl.utils.torch_functional import logprobs_from_logits_naive

    EngineRegistry.register(model_type="language_model", backend="fsdp2", device="cpu")(transformer_impl.FSDPEngineWithLMHead)
    # Without flash-attention's kernel verl walks over the tokens one by one in Python, which costs as much as a small model.
    transformer_impl.logprobs_from_logits = logprobs_from_logits_naive  # ty: ignore[invalid-assignment]

LOSSES = {"supervised": sft_loss, "policy": ppo_loss}
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
        super().__init__(_worker_config(policy_dir, config, seed))
        self.reset()
        self.module = self.engine.module
        self.processor = self.model_config.processor
        self.losses = {name: partial(loss, config=_actor_config(config)) for name, loss in LOSSES.items()}
        if config.freeze_vision:
            for name, parameter in self.module.named_parameters():
                if "visual." in name:
                    parameter.requires_grad_(False)
        self.images = _ImageTable(self.module)
        if banned_token_ids:
            self.module.get_output_embeddings().register_forward_hook(_Ban(banned_token_ids))

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
        tied = set(self.module._tied_weights_keys or ()) if self.model_config.hf_config.tie_word_embeddings else set()
        weights, _ = self.engine.get_per_tensor_param()
        state = {}
        for name, weight in weights:  # every rank takes part in gathering each weight
            if self.rank == 0 and name not in tied:
                # A lone rank's full tensor is the parameter itself, which the next step would change.
                state[name] = weight.detach().to("cpu", copy=True).contiguous()
        return revert_weight_conversion(self.module, state) if self.rank == 0 else None

    @_on_all_ranks
    def save(self, directory: str) -> None:
        """Write weights, optimizer and random-number state into existing directories."""
        state = self.full_state()
        moments = {}
        for name, parameter in self.module.named_parameters():
            moments[name] = {key: _full(value) for key, value in self.engine.optimizer.state.get(parameter, {}).items()}
        if state is not None:
            save_file(state, Path(directory, "policy", "model.safetensors"), metadata={"format": "pt"})
            torch.save(moments, Path(directory, "optimizer", "optimizer.pt"))
        torch.save(BaseCheckpointManager.get_rng_state(), Path(directory, "optimizer", f"rng_{self.rank}.pt"))

    @_on_all_ranks
    def load(self, directory: str) -> None:
        """The inverse of `save`, also for another number of workers; then ranks without a saved random-number state keep theirs."""
        parameters = dict(self.module.named_parameters())
        with torch.no_grad(), safe_open(Path(directory, "policy", "model.safetensors"), framework="pt") as weights:
            for checkpoint_name, name in self._checkpoint_names().items():
                parameters[name].copy_(_shard_like(weights.get_tensor(checkpoint_name), parameters[name]))
        moments = torch.load(Path(directory, "optimizer", "optimizer.pt"), weights_only=True, mmap=True)
        self.engine.optimizer.state.clear()
        for name, state in moments.items():
            if state:
                parameter = parameters[name]
                self.engine.optimizer.state[parameter] = {
                    key: _shard_like(value, parameter) if value.shape == parameter.shape else value.clone()
                    for key, value in state.items()
                }
        rng = Path(directory, "optimizer", f"rng_{self.rank}.pt")
        if rng.exists():
            BaseCheckpointManager.load_rng_state(torch.load(rng, weights_only=False))

    def _checkpoint_names(self) -> dict[str, str]:
        """Checkpoint name → module name of every weight."""
        names = [name for name, _ in self.module.named_parameters()]
        numbered = revert_weight_conversion(self.module, {name: torch.tensor(index) for index, name in enumerate(names)})
        return {checkpoint_name: names[int(index)] for checkpoint_name, index in numbered.items()}

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
            "position_ids": self._positions(batch, rows, lengths),
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

    def _positions(self, batch: Batch, rows: np.ndarray, lengths: np.ndarray) -> torch.Tensor:
        """Jagged positions: one row for text models; for Qwen2.5-VL four (text, then time, height and width)."""
        if self.processor is None:
            return torch.nested.nested_tensor([torch.arange(length) for length in lengths], layout=torch.jagged)
        positions = []
        for row, length in zip(rows, lengths, strict=True):
            tokens = torch.from_numpy(batch.tokens_N_T[row, :length].copy())
            grids = torch.from_numpy(batch.grids_U_3[batch.images_N[row]]) if batch.images_N[row] else None
            spatial = get_rope_index(self.processor, tokens, image_grid_thw=grids, attention_mask=torch.ones_like(tokens))
            positions.append(torch.cat([torch.arange(length)[None], spatial]))
        return tu.nested_tensor_from_tensor_list(positions)


class _ImageTable:
    """Lets the vision tower see each different image of a micro-batch once, however many of its sequences show it.

    verl hands images to the model sequence by sequence. Here a sequence brings no pixels, only the index of each image as a fourth
    column of its grid; hooks around the tower fetch the pixels, and copy each image's embeddings to all places where it is shown.
    """

    def __init__(self, module: torch.nn.Module) -> None:
        self._batch: Batch | None = None
        self._places: torch.Tensor | None = None
        for name, tower in module.named_modules():
            if name.endswith("visual"):
                tower.register_forward_pre_hook(self._fetch, with_kwargs=True)
                tower.register_forward_hook(self._spread)

    def row(self, batch: Batch, row: int) -> dict[str, torch.Tensor]:
        """What verl is given in place of one sequence's images."""
        self._batch, images = batch, batch.images_N[row]
        if not images:
            return {}
        grids = np.concatenate([batch.grids_U_3[images], np.array(images)[:, None]], axis=1)
        return {"pixel_values": torch.zeros(len(images), 1), "image_grid_thw": torch.from_numpy(grids)}

    def _fetch(self, tower: Any, args: tuple[torch.Tensor], kwargs: dict[str, torch.Tensor]) -> tuple[tuple, dict] | None:
        batch, shown, self._places = self._batch, kwargs["grid_thw"], None
        if batch is None or shown.shape[1] == 3:
            return None  # verl's blank image, with which it keeps the tower in step on ranks whose micro-batch has none
        images, which = torch.unique(shown[:, 3], return_inverse=True)
        grids = torch.from_numpy(batch.grids_U_3[images.cpu().numpy()])
        sizes = grids.prod(dim=1) // tower.spatial_merge_size**2
        spans = torch.arange(int(sizes.sum())).split(sizes.tolist())
        self._places = torch.cat([spans[index] for index in which.tolist()]).to(shown.device)
        pixels = np.concatenate([batch.pixels_of(image) for image in images.tolist()])
        return (torch.from_numpy(pixels).to(args[0]),), {"grid_thw": grids.to(shown.device)}

    def _spread(self, tower: Any, args: tuple[torch.Tensor], output: Any) -> Any:
        if self._places is None:
            return output.pooler_output  # verl 0.9.1 takes the mean of the blank image's output as if it were a tensor
        output.pooler_output = output.pooler_output.index_select(0, self._places)
        return output


class _Ban:
    """Forward hook that takes tokens out of the distribution, as the sampler does."""

    def __init__(self, token_ids: list[int]) -> None:
        self.token_ids = torch.tensor(token_ids)

    def __call__(self, module: torch.nn.Module, inputs: Any, logits: torch.Tensor) -> torch.Tensor:
        # Far below the minimum's own size, so that dividing by a temperature below 1 does not make it infinite and entropy NaN.
        return logits.index_fill(-1, self.token_ids.to(logits.device), torch.finfo(logits.dtype).min / 1024)


def _worker_config(policy_dir: str, config: LearnerConfig, seed: int) -> TrainingWorkerConfig:
    compute = {"float32": "fp32", "bfloat16": "bf16"}[config.precision]
    return TrainingWorkerConfig(
        model_type="language_model",
        model_config=HFModelConfig(
            path=policy_dir,
            use_remove_padding=config.packed,
            enable_gradient_checkpointing=config.gradient_checkpointing,
            override_config={"attn_implementation": config.attention},
        ),
        engine_config=FSDPEngineConfig(
            strategy="fsdp2",
            model_dtype="fp32",
            mixed_precision={"param_dtype": compute, "reduce_dtype": "fp32", "buffer_dtype": "fp32"},
            use_torch_compile=False,
            seed=seed,
        ),
        optimizer_config=FSDPOptimizerConfig(
            betas=(config.adam_beta1, config.adam_beta2), weight_decay=config.weight_decay, clip_grad=config.grad_clip
        ),
        checkpoint_config=CheckpointConfig(),
    )


def _actor_config(config: LearnerConfig) -> FSDPActorConfig:
    return FSDPActorConfig(
        strategy="fsdp2",
        rollout_n=1,
        use_dynamic_bsz=True,
        clip_ratio_low=config.clip_low,
        clip_ratio_high=config.clip_high,
        loss_agg_mode="token-mean",
        entropy_coeff=config.entropy_coefficient,
        use_kl_loss=False,
    )


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


def _full(value: Any) -> Any:
    if isinstance(value, DTensor):
        value = value.full_tensor()
    return value.detach().to("cpu", copy=True) if isinstance(value, torch.Tensor) else value


def _shard_like(full: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """This rank's part of a full tensor; every rank has read the file, so nothing is sent."""
    if not isinstance(parameter, DTensor):
        return full.to(parameter.device, copy=True)
    return distribute_tensor(full.to(parameter.device), parameter.device_mesh, parameter.placements, src_data_rank=None)
