"""Checkpoints of version 0.1: weights in `policy/model.safetensors`, the moments of the optimizer in `optimizer/optimizer.pt`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

PARTS = ("policy/model.safetensors", "optimizer/optimizer.pt")


def load(module: PreTrainedModel, optimizer: Optimizer, directory: Path, rank: int) -> Any:
    """Read such a checkpoint into a sharded module and its optimizer; returns the rank's random state, None if there is none."""
    parameters = dict(module.named_parameters())
    with torch.no_grad(), safe_open(directory / PARTS[0], framework="pt") as weights:
        for checkpoint_name, name in _checkpoint_names(module).items():
            parameters[name].copy_(_shard_like(weights.get_tensor(checkpoint_name), parameters[name]))
    moments = torch.load(directory / PARTS[1], weights_only=True, mmap=True)
    optimizer.state.clear()
    for name, state in moments.items():
        if state:
            parameter = parameters[name]
            optimizer.state[parameter] = {
                key: _shard_like(value, parameter) if value.shape == parameter.shape else value.clone()
                for key, value in state.items()
            }
    random_state = directory / "optimizer" / f"rng_{rank}.pt"
    return torch.load(random_state, weights_only=False) if random_state.exists() else None


def _checkpoint_names(module: PreTrainedModel) -> dict[str, str]:
    """Checkpoint name → module name of every weight."""
    names = [name for name, _ in module.named_parameters()]
    numbered = revert_weight_conversion(module, {name: torch.tensor(index) for index, name in enumerate(names)})
    return {checkpoint_name: names[int(index)] for checkpoint_name, index in numbered.items()}


def _shard_like(full: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """This rank's part of a full tensor; every rank has read the file, so nothing is sent."""
    if not isinstance(parameter, DTensor):
        return full.to(parameter.device, copy=True)
    return distribute_tensor(full.to(parameter.device), parameter.device_mesh, parameter.placements, src_data_rank=None)
