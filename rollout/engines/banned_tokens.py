"""What nobody may sample, as vLLM is told it: an engine loads this class by its name, in whatever process it samples."""

from __future__ import annotations

from typing import Any

import torch
from vllm.v1.sample.logits_processor import LogitsProcessor

BANNED_KEY = "banned_token_ids"
"""Where the ids stand in vLLM's `additional_config`."""


class BannedTokens(LogitsProcessor):
    """Gives probability 0 to the ids that nobody may sample, for the whole batch in one operation."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        self._ids = torch.tensor(vllm_config.additional_config[BANNED_KEY], dtype=torch.int64, device=device)

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """`logits` of shape (requests, vocabulary), changed in place."""
        return logits.index_fill_(1, self._ids, float("-inf"))

    def is_argmax_invariant(self) -> bool:
        """False: a banned token may be the most probable one."""
        return False

    def update_state(self, batch_update: Any) -> None:
        """Nothing to keep: every request is masked alike."""
