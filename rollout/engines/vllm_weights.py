"""What vLLM's own worker is told besides: to miss no weight, to take new ones, and to empty memory before it is used anew."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Set
from dataclasses import replace
from typing import Any

import torch
from vllm.config.load import LoadConfig
from vllm.model_executor.layers.fused_moe import UnquantizedFusedMoEMethod
from vllm.model_executor.layers.linear import UnquantizedLinearMethod
from vllm.model_executor.layers.vocab_parallel_embedding import UnquantizedEmbeddingMethod
from vllm.model_executor.model_loader import DefaultModelLoader, register_model_loader
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload
from vllm.platforms import current_platform
from vllm.v1.kv_cache_interface import FullAttentionSpec

from rollout.engines.registry import lacking

# vLLM warns of each layer that an update gave nothing: rotary embeddings, which have no weights, and output layers that are tied to
# the embedding. Weights that are really missing are an error here.
logging.getLogger("vllm.model_executor.model_loader.reload.layerwise").addFilter(
    lambda record: "Failed to load weights" not in record.getMessage()
)

WHOLE = "whole"
"""The `load_format` of `WholeLoader`."""
_PLAIN = (UnquantizedLinearMethod, UnquantizedEmbeddingMethod, UnquantizedFusedMoEMethod)


@register_model_loader(WHOLE)
class WholeLoader(DefaultModelLoader):
    """Loads a policy's safetensors, and misses no layer that is in none of them.

    vLLM's own loader leaves such a linear layer, embedding or output layer as the memory was and says nothing.
    """

    def __init__(self, load_config: LoadConfig) -> None:
        super().__init__(replace(load_config, load_format="hf"))

    def track_weights_loading(self, model: torch.nn.Module, loaded_weights: set[str] | None) -> None:
        """Raise ValueError if a weight of an unquantised layer was not loaded."""
        if loaded_weights is not None:
            plain = {
                f"{prefix}.{name}"
                for prefix, layer in model.named_modules()
                if isinstance(getattr(layer, "quant_method", None), _PLAIN)
                for name, _ in layer.named_parameters()
                if "bias" not in name  # some are zero where a checkpoint has none
            }
            if missing := plain.intersection(name for name, _ in model.named_parameters()) - loaded_weights:
                raise ValueError(f"it {lacking(missing)}")
        super().track_weights_loading(model, loaded_weights)


class WeightReceiver:
    """Mixed into vLLM's worker, of which there is one for each GPU; several are processes of their own.

    What they are then sent is pickled, which for weights in shared memory is their handle.
    """

    model_runner: Any
    device: torch.device

    def receive_policy_weights(self, state: Mapping[str, torch.Tensor]) -> None:
        """Load Hugging Face names and tensors. Copying in place is impossible: kernels keep weights in their own layout.

        Raises ValueError if a weight of the model is missing.
        """
        model, model_config = self.model_runner.get_model(), self.model_runner.model_config
        # What vLLM's `reload_weights` does, which only warns of weights that are missing.
        with torch.device(self.device):
            initialize_layerwise_reload(model)
            loaded = model.load_weights(iter(state.items()))
            finalize_layerwise_reload(model, model_config)
        if current_platform.is_cpu():
            repack_tied(model, loaded)
        if model_config.quantization is None and (missing := {name for name, _ in model.named_parameters()} - loaded):
            raise ValueError(f"an update of the weights has no {min(missing)}, and {len(missing)} are missing in all")

    def empty_new_blocks(self) -> None:
        """For a model with a state on a CPU: empty the blocks of attention's cache before a request is given them.

        Its layers with a state keep that in the same memory, as float32. vLLM empties such blocks on GPUs; on CPUs it relies on a
        probability of 0 for what lies behind a sequence, which times a NaN of old bits is NaN.
        """
        runner = self.model_runner
        places = []
        for group in runner._kv_cache_spec_attn_group_iterator():
            spec = group.kv_cache_spec
            if isinstance(spec, FullAttentionSpec):
                size = runner._kernel_block_sizes[group.kv_cache_group_id]
                dim = group.backend.get_kv_cache_block_dim(size, spec.num_kv_heads, spec.head_size)
                layers = runner.compilation_config.static_forward_context
                places += [(layers[name].kv_cache, dim, spec.block_size // size) for name in group.layer_names]

        def empty(block_ids: list[int]) -> None:
            for cache, dim, parts in places:
                cache.index_fill_(dim, torch.tensor([block * parts + part for block in block_ids for part in range(parts)]), 0)

        runner._zero_block_ids = empty


def repack_tied(model: torch.nn.Module, loaded: Set[str]) -> None:
    """Repack each weight that several layers share for those that the reload has not repacked it for.

    A linear layer on a CPU computes with a copy of its weight in the kernel's layout. The reload renews that of the layer under
    whose name the weight comes, which for tied embeddings is not the output layer.
    """
    owners: dict[int, list[tuple[str, Any]]] = {}
    for prefix, layer in model.named_modules():
        for name, weight in layer.named_parameters(prefix, recurse=False):
            owners.setdefault(id(weight), []).append((name, layer))
    for shared in owners.values():
        for name, layer in shared if len(shared) > 1 else []:
            method = getattr(layer, "quant_method", None)
            if name not in loaded and method is not None:
                method.process_weights_after_loading(layer)
