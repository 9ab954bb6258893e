"""How vLLM's own worker takes new weights."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch


def _has_weights(record: logging.LogRecord) -> bool:
    return "RotaryEmbedding" not in record.getMessage()


# Every weight update warns that rotary embeddings were given no weights. They have none.
logging.getLogger("vllm.model_executor.model_loader.reload.layerwise").addFilter(_has_weights)


class WeightReceiver:
    """Mixed into vLLM's worker, which may be another process."""

    model_runner: Any

    def receive_policy_weights(self, state: Mapping[str, torch.Tensor]) -> None:
        """Load Hugging Face names and tensors. Copying in place is impossible: kernels keep weights in their own layout."""
        self.model_runner.reload_weights(weights_iterator=iter(state.items()))
