"""Where the sequences of a micro-batch lie, one behind the other in a single row, and batches of about equally long ones.

`use` is called before each forward pass, since not every model hands the borders on to its layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any

import torch

LENGTH_RATIO = 1.15
"""Sequences share a batch if none is longer than the shortest by more than this factor: of 1, 1.15, 1.3, 2 the fastest for SDPA."""


class Packing:
    """Where the sequences of a row of tokens lie. `offsets` has shape (sequences + 1,), from 0 to the number of tokens."""

    def __init__(self, offsets: torch.Tensor) -> None:
        self.offsets = offsets.to(torch.int32)
        self.ends: list[int] = offsets.tolist()
        self.longest = max((end - start for start, end in pairwise(self.ends)), default=0)

    @cached_property
    def equal(self) -> Batches:
        """Sequences of equal length together."""
        return Batches(self, 1.0)

    @cached_property
    def similar(self) -> Batches:
        """Sequences of about equal length together, the shorter ones lengthened: what is later is not seen by a causal layer."""
        return Batches(self, LENGTH_RATIO)


class Batches:
    """Sequences sorted by length into batches: `index` gathers the tokens of all batches, `inverse` finds each token among them.

    `shapes` holds (sequences, length) of each batch. A lengthened sequence repeats its last token.
    """

    def __init__(self, packing: Packing, ratio: float) -> None:
        spans = sorted(pairwise(packing.ends), key=lambda span: span[1] - span[0])
        batches: list[list[tuple[int, int]]] = []
        for start, end in spans:
            if end == start:
                continue
            if not batches or end - start > ratio * (batches[-1][0][1] - batches[-1][0][0]):
                batches.append([])
            batches[-1].append((start, end))
        self.shapes = [(len(batch), batch[-1][1] - batch[-1][0]) for batch in batches]
        index, inverse, at = [], torch.empty(packing.ends[-1], dtype=torch.long), 0
        for batch, (_, length) in zip(batches, self.shapes, strict=True):
            for start, end in batch:
                index.append(torch.arange(start, start + length).clamp_(max=end - 1))
                inverse[start:end] = torch.arange(at, at + end - start)
                at += length
        device = packing.offsets.device
        self.index = torch.cat(index).to(device) if index else torch.empty(0, dtype=torch.long, device=device)
        self.inverse = inverse.to(device)


class _Gather(torch.autograd.Function):
    """Tokens → batches. Repeated tokens get no gradient of their own: a causal layer gives them none."""

    @staticmethod
    def forward(ctx: Any, tokens: torch.Tensor, batches: Batches) -> torch.Tensor:
        ctx.batches = batches
        return tokens.index_select(0, batches.index)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradients[0].index_select(0, ctx.batches.inverse), None


class _Return(torch.autograd.Function):
    """Batches → tokens."""

    @staticmethod
    def forward(ctx: Any, batched: torch.Tensor, batches: Batches) -> torch.Tensor:
        ctx.batches = batches
        return batched.index_select(0, batches.inverse)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        (gradient,) = gradients
        spread = gradient.new_zeros(len(ctx.batches.index), *gradient.shape[1:])
        spread[ctx.batches.inverse] = gradient
        return spread, None


_in_use: Packing | None = None


def use(offsets: torch.Tensor) -> None:
    """The sequences of the next forward pass and of its backward pass; with Ulysses, of all its ranks' tokens together."""
    global _in_use
    _in_use = Packing(offsets)


def in_use() -> Packing:
    """What `use` was told last."""
    assert _in_use is not None, "learner.verl.model.packing.use(offsets) comes before a forward pass"
    return _in_use


def in_batches(compute: Callable[..., torch.Tensor], tensors: Sequence[torch.Tensor], batches: Batches) -> torch.Tensor:
    """`compute` over sequences of about equal length together.

    The tensors have shape (tokens, …), as has what is returned; `compute` is given them, and returns, as (sequences, length, …).
    """
    sizes = [count * length for count, length in batches.shapes]
    split = [_Gather.apply(tensor, batches).split(sizes) for tensor in tensors]
    parts = [
        compute(*(tensor.unflatten(0, shape) for tensor in of_batch)).flatten(0, 1)
        for shape, *of_batch in zip(batches.shapes, *split, strict=True)
    ]
    return _Return.apply(torch.cat(parts) if parts else tensors[0], batches)
