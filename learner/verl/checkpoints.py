"""Weights, optimizer and random-number state of a rank: gathered, written and read back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion
from verl.utils.checkpoint.checkpoint_manager import BaseCheckpointManager


def full_state(engine: Any, rank: int, *, tied: bool) -> dict[str, torch.Tensor] | None:
    """All weights under their checkpoint names, on CPU; None on ranks other than 0. `tied`: whether the embeddings are."""
    module = engine.module
    tied_names = set(module._tied_weights_keys or ()) if tied else set()
    weights, _ = engine.get_per_tensor_param()
    state = {}
    for name, weight in weights:  # every rank takes part in gathering each weight
        if rank == 0 and name not in tied_names:
            # A lone rank's full tensor is the parameter itself, which the next step would change.
            state[name] = weight.detach().to("cpu", copy=True).contiguous()
    return revert_weight_conversion(module, state) if rank == 0 else None


def save(engine: Any, rank: int, directory: str, *, tied: bool) -> None:
    """Write weights, optimizer and random-number state into existing directories."""
    state = full_state(engine, rank, tied=tied)
    moments = {}
    for name, parameter in engine.module.named_parameters():
        moments[name] = {key: _full(value) for key, value in engine.optimizer.state.get(parameter, {}).items()}
    if state is not None:
        save_file(state, Path(directory, "policy", "model.safetensors"), metadata={"format": "pt"})
        torch.save(moments, Path(directory, "optimizer", "optimizer.pt"))
    torch.save(BaseCheckpointManager.get_rng_state(), Path(directory, "optimizer", f"rng_{rank}.pt"))


def load(engine: Any, rank: int, directory: str) -> None:
    """The inverse of `save`, also for another number of workers; then ranks without a saved random-number state keep theirs."""
    parameters = dict(engine.module.named_parameters())
    with torch.no_grad(), safe_open(Path(directory, "policy", "model.safetensors"), framework="pt") as weights:
        for checkpoint_name, name in _checkpoint_names(engine.module).items():
            parameters[name].copy_(_shard_like(weights.get_tensor(checkpoint_name), parameters[name]))
    moments = torch.load(Path(directory, "optimizer", "optimizer.pt"), weights_only=True, mmap=True)
    engine.optimizer.state.clear()
    for name, state in moments.items():
        if state:
            parameter = parameters[name]
            engine.optimizer.state[parameter] = {
                key: _shard_like(value, parameter) if value.shape == parameter.shape else value.clone()
                for key, value in state.items()
            }
    rng = Path(directory, "optimizer", f"rng_{rank}.pt")
    if rng.exists():
        BaseCheckpointManager.load_rng_state(torch.load(rng, weights_only=False))


def _checkpoint_names(module: PreTrainedModel) -> dict[str, str]:
    """Checkpoint name → module name of every weight."""
    names = [name for name, _ in module.named_parameters()]
    numbered = revert_weight_conversion(module, {name: torch.tensor(index) for index, name in enumerate(names)})
    return {checkpoint_name: names[int(index)] for checkpoint_name, index in numbered.items()}


def _full(value: Any) -> Any:
    if isinstance(value, DTensor):
        value = value.full_tensor()
    return value.detach().to("cpu", copy=True) if isinstance(value, torch.Tensor) else value


def _shard_like(full: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """This rank's part of a full tensor; every rank has read the file, so nothing is sent."""
    if not isinstance(parameter, DTensor):
        return full.to(parameter.device, copy=True)
    return distribute_tensor(full.to(parameter.device), parameter.device_mesh, parameter.placements, src_data_rank=None)
