"""Layers with a state that runs from token to token (the gated delta rule of Qwen3.5), over packed sequences.

verl's forward of these layers begins anew where a sequence begins, if it is told where. With the package flash-linear-attention one
kernel does so for all of them. Without, transformers computes the rule in PyTorch, which takes no borders: here it is given batches
of about equally long sequences.
"""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from typing import Any

import torch
from transformers import PreTrainedModel

from envs.errors import UsageError
from learner.verl.model.packing import in_batches, in_use

KIND = "linear_attention"
"""transformers' name of such a layer among a configuration's `layer_types`."""


def install(model: PreTrainedModel) -> set[str]:
    """Have the layers with a state told where sequences begin. Returns their kind, nothing if verl's forward is not theirs."""
    layers: list[Any] = [layer for layer in model.modules() if hasattr(layer, "chunk_gated_delta_rule")]
    if not layers or any("cu_seqlens_cpu" not in signature(layer.forward).parameters for layer in layers):
        return set()
    for layer in layers:
        if "cu_seqlens" not in signature(layer.chunk_gated_delta_rule).parameters:
            layer.chunk_gated_delta_rule = _of_sequences(layer.chunk_gated_delta_rule)
        layer.register_forward_pre_hook(with_borders, with_kwargs=True)
    return {KIND}


def with_borders(layer: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple, dict]:
    """What a layer is called with, and where sequences begin. Raises UsageError if it is not given all tokens of a micro-batch."""
    packing = in_use()
    tokens = (args[0] if args else kwargs["hidden_states"]).shape[1]
    if tokens != packing.ends[-1]:
        raise UsageError(
            f"{type(layer).__name__} is given {tokens} tokens, the micro-batch has {packing.ends[-1]}: "
            "this model cannot be trained with ulysses_sequence_parallel_size above 1"
        )
    return args, kwargs | {"cu_seqlens": packing.offsets.long(), "cu_seqlens_cpu": torch.tensor(packing.ends)}


def _of_sequences(rule: Callable[..., tuple[torch.Tensor, None]]) -> Callable[..., tuple[torch.Tensor, None]]:
    """The rule for packed sequences, tensors of shape (1, tokens, heads, D) and (1, tokens, heads), from one for rows of their own.

    It names all that it takes: to whatever takes further arguments verl leaves the borders, which transformers' own passes over.
    """

    def chunk_gated_delta_rule(
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        g: torch.Tensor,
        beta: torch.Tensor,
        initial_state: None,
        output_final_state: bool,
        use_qk_l2norm_in_kernel: bool,
        cu_seqlens: torch.Tensor,
    ) -> tuple[torch.Tensor, None]:
        assert initial_state is None and not output_final_state, "the learner neither continues a sequence nor keeps its state"

        def compute(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, g: torch.Tensor, beta: torch.Tensor) -> torch.Tensor:
            return rule(q, k, v, g=g, beta=beta, use_qk_l2norm_in_kernel=use_qk_l2norm_in_kernel)[0]

        packed = in_batches(compute, [tensor[0] for tensor in (query, key, value, g, beta)], in_use().similar)
        return packed[None], None

    return chunk_gated_delta_rule
