"""Rounding to bfloat16 by which a change that is smaller than half a last digit is not lost.

Models are published in bfloat16. Of W + d, with d the small change that an adapter makes, rounding to nearest gives W again, number
for number: a sampler of such weights would be the policy before training. Here a number is rounded up or down by a threshold of its
own, drawn evenly, so that a change reaches the sum over a row's numbers in full, as with stochastic rounding (Gupta et al. 2015,
arXiv:1502.02551, section 3.1). The thresholds are those of a name, always the same: what is served and what is saved are the same
numbers, and a change that grows turns one number after another.
"""

from __future__ import annotations

import zlib

import torch

_CUT_BITS = 16
"""A bfloat16 is the upper half of a float32."""


def to_dtype(tensor: torch.Tensor, dtype: torch.dtype, name: str) -> torch.Tensor:
    """A float32 matrix in another type: in bfloat16 rounded as above, with the thresholds of `name`, else as PyTorch rounds."""
    if dtype != torch.bfloat16 or tensor.is_meta:
        return tensor.to(dtype)
    rows, columns = tensor.shape
    # Drawn on the CPU, so that they are the same wherever the tensor is; rows share those of the columns, shifted.
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    drawn = torch.randint(1 << _CUT_BITS, (rows + columns,), generator=generator, dtype=torch.int32).to(tensor.device)
    thresholds = (drawn[:rows, None] + drawn[None, rows:]) & ((1 << _CUT_BITS) - 1)
    bits = (tensor.view(torch.int32) + thresholds) & -(1 << _CUT_BITS)
    # A GPU's NaN has all bits set: one more would make a number of it.
    return torch.where(tensor.isnan(), tensor, bits.view(torch.float32)).to(torch.bfloat16)
