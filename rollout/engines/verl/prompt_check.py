"""Holds the prompts that vLLM made of token ids and images against those of the transcripts: `prompts` is the clients' half.

A logits processor, since it is the place where vLLM shows others the prompt that the model is given. An engine loads this class by
its name, in whatever process it samples.
"""

from __future__ import annotations

from typing import Any

import torch
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor
from vllm.v1.sample.logits_processor.builtin import process_dict_updates

from rollout.engines.verl.prompts import DIGEST, REFUSAL, digest


class PromptCheck(LogitsProcessor):
    """Lets a request whose prompt is not the one that its client has sample nothing but the token that says so.

    An exception would end the engine, and with it the requests of all other episodes.
    """

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        self._refusal_of_row: dict[int, int] = {}

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """`logits` of shape (requests, vocabulary), changed in place."""
        for row, token_id in self._refusal_of_row.items():
            logits[row] = float("-inf")
            logits[row, token_id] = 0.0
        return logits

    def is_argmax_invariant(self) -> bool:
        """False: what is refused is refused in greedy sampling too."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Look at the prompts of requests that are new in the batch."""
        process_dict_updates(self._refusal_of_row, batch_update, _refusal)


def _refusal(params: Any, prompt: list[int] | None, sampled: list[int]) -> int | None:
    """The token that refuses a request, None if its prompt is right or it has no images."""
    expected = params.extra_args or {}
    if DIGEST not in expected or expected[DIGEST] == digest(prompt or ()):
        return None
    return expected[REFUSAL]
