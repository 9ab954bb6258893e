"""The output layer: what the sampler never draws is taken out of the distribution."""

from __future__ import annotations

from typing import Any

import torch


class Ban:
    """Forward hook that takes tokens out of the distribution, as the sampler does."""

    def __init__(self, token_ids: list[int]) -> None:
        self.token_ids = torch.tensor(token_ids)

    def __call__(self, module: torch.nn.Module, inputs: Any, logits: torch.Tensor) -> torch.Tensor:
        # Far below the minimum's own size, so that dividing by a temperature below 1 does not make it infinite and entropy NaN.
        return logits.index_fill(-1, self.token_ids.to(logits.device), torch.finfo(logits.dtype).min / 1024)
