"""Low-rank adapters (LoRA, arXiv:2106.09685): what leaves the learner is the policy with its adapter merged in.

verl's own merge leaves out layers that FSDP does not wrap apart, as the one between vision tower and language model, and gives
bfloat16 whatever the policy's type; and it changes the weights that are being trained, of which it keeps a copy. Here each weight
is merged on its own, on its way out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch.distributed.tensor import DTensor
from verl.utils.device import get_device_id

from envs.errors import UsageError
from learner.verl.model.rounding import to_dtype

PREFIX = "base_model.model."
"""What PEFT puts before the names of the model that it wraps."""


def merged_weights(module: Any, dtype: torch.dtype | None = None) -> Iterator[tuple[str, torch.Tensor]]:
    """Names and whole weights of a sharded PEFT model, one after the other; all ranks must walk through them together.

    `dtype` as of `merged`. Raises UsageError as `scalings`.
    """
    weights, device = module.state_dict(), torch.device(get_device_id())
    return merged(weights, lambda name: _whole(weights[name], device), scalings(module), dtype)


def scalings(module: torch.nn.Module) -> dict[str, float]:
    """By which factor each adapted layer's product of matrices is added to its weight; layers by PEFT's name.

    Raises UsageError if the adapter is of another form than verl makes.
    """
    layers = {name: layer for name, layer in module.named_modules() if hasattr(layer, "lora_A") and hasattr(layer, "scaling")}
    for name, layer in layers.items():
        if not layer.lora_A or getattr(layer, "lora_magnitude_vector", None) or getattr(layer, "fan_in_fan_out", False):
            raise UsageError(
                f"the adapter of {name} is not a plain one of a linear layer: choose other learner.verl.model.target_modules"
            )
    return {name: layer.scaling["default"] for name, layer in layers.items()}


def merged(
    names: Iterable[str],
    read: Callable[[str], torch.Tensor],
    scaling_of: dict[str, float],
    dtype: torch.dtype | None = None,
) -> Iterator[tuple[str, torch.Tensor]]:
    """Names and weights of the policy with its adapter: W + scaling · B · A where a layer has one.

    `names` are PEFT's, `read` gives a whole tensor, `scaling_of` is what `scalings` found. `dtype` is the type in which adapted
    weights are going to be used, None for their own: they are rounded to it as in `rounding`, all others are left as they are.
    """
    for name in names:
        if ".lora_" in name:
            continue
        weight = read(name)
        layer = name.removesuffix(".base_layer.weight")
        if layer != name and layer in scaling_of:
            down, up = read(f"{layer}.lora_A.default.weight"), read(f"{layer}.lora_B.default.weight")
            summed = weight.float() + scaling_of[layer] * (up.float() @ down.float())
            weight = to_dtype(summed, dtype or weight.dtype, layer)
        yield name.removeprefix(PREFIX).replace(".base_layer.", "."), weight


def merged_names(names: Iterable[str], scaling_of: dict[str, float]) -> Iterator[list[str]]:
    """Which of PEFT's names `merged` needs at a time: a weight with its adapter's two matrices, any other alone."""
    for name in names:
        layer = name.removesuffix(".base_layer.weight")
        if layer != name and layer in scaling_of:
            yield [name, f"{layer}.lora_A.default.weight", f"{layer}.lora_B.default.weight"]
        elif ".lora_" not in name:
            yield [name]


def _whole(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    tensor = tensor.detach().to(device)
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
