"""Weights on their way through Ray's object store: as NumPy arrays, which it shares without copying."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

Packed = dict[str, tuple[np.ndarray, str]]
"""Name → raw bytes in the tensor's shape, and the name of its dtype: NumPy has no bfloat16."""


def pack(state: Mapping[str, torch.Tensor]) -> Packed:
    """Tensors as arrays. CPU tensors are not copied."""
    # Imported late, here and below: it takes seconds, and a worker with a scripted policy starts without it.
    import torch

    packed = {}
    for name, tensor in state.items():
        tensor = tensor.detach().to("cpu").contiguous()
        raw = tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor
        packed[name] = (raw.numpy(), str(tensor.dtype).removeprefix("torch."))
    return packed


def unpack(packed: Packed) -> dict[str, torch.Tensor]:
    """The inverse of `pack`. The tensors share the arrays' memory and must only be read."""
    import torch

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return {name: torch.from_numpy(array).view(getattr(torch, dtype)) for name, (array, dtype) in packed.items()}
