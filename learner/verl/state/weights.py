"""The sending side of an update: a rank's weights by checkpoint name, gathered one after the other, into shared memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.core_model_loading import MergeModulelist, WeightConverter, revert_weight_conversion

from rollout.cluster.weights import Sender, Weights


class Publisher:
    """Shares the weights of verl's `engine`. `tied`: whether the output layer is the embedding, which then is sent once."""

    def __init__(self, engine: Any, rank: int, *, tied: bool) -> None:
        self._engine, self._rank = engine, rank
        self._tied = set(engine.module._tied_weights_keys or ()) if tied else set()
        self._sender = self._aside = Sender()
        self._names: dict[str, str] = {}

    def share(self, dtype: str, *, aside: bool = False) -> Weights | None:
        """The weights in `dtype`, as in "bfloat16"; None on ranks other than 0. All ranks must call it.

        `aside`: they are not what engines are given, whose versions therefore stay as they are.
        """
        self._engine.served_dtype = getattr(torch, dtype)
        if self._rank == 0:
            if aside:
                self._aside = Sender()
            return (self._aside if aside else self._sender).share(self.named(), dtype)
        for _ in self._gathered():
            pass
        return None

    def _gathered(self) -> Iterator[tuple[str, torch.Tensor]]:
        operations = [one for conversion in self._conversions for one in conversion.operations]
        fused = any(isinstance(one, MergeModulelist) for one in operations)  # then transformers takes experts apart
        weights, _ = self._engine.get_per_tensor_param(fused=fused)  # an adapter is merged into them
        yield from weights

    @property
    def _conversions(self) -> list[WeightConverter]:
        """How transformers made layers of what is in the policy's files, but for names."""
        found = getattr(self._engine.module, "_weight_conversions", None) or ()
        return [conversion for conversion in found if isinstance(conversion, WeightConverter)]

    def named(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Whole tensors by checkpoint name; each is freed before the next is gathered."""
        module = self._engine.module
        wanted = ((name, weight.detach()) for name, weight in self._gathered() if name not in self._tied)
        if self._conversions:
            # Layers that were fused when they were loaded are taken apart again, for which transformers wants them all at once.
            yield from revert_weight_conversion(module, dict(wanted)).items()
            return
        for name, weight in wanted:
            yield self._checkpoint_name(module, name), weight

    def _checkpoint_name(self, module: PreTrainedModel, name: str) -> str:
        if name not in self._names:
            (self._names[name],) = revert_weight_conversion(module, {name: torch.empty(0)})
        return self._names[name]
