"""The sizes of a model: read from its directory, or from its published configuration if the weights are not here yet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PretrainedConfig,
    Qwen2_5_VLConfig,
    Qwen3VLConfig,
)

from envs.errors import UsageError
from rollout.engines.registry import expert_count
from starter.policies import STARTERS

_LAYER = ".layers.0."


def _qwen2_5_vl(hidden: int, layers: int, heads: int, kv_heads: int, inner: int, vocabulary: int, vision_inner: int = 3420) -> Any:
    text = {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": inner,
        "vocab_size": vocabulary,
    }
    vision = {"depth": 32, "hidden_size": 1280, "num_heads": 16, "intermediate_size": vision_inner, "out_hidden_size": hidden}
    tied = hidden == 2048
    return Qwen2_5_VLConfig(text_config=text | {"tie_word_embeddings": tied}, vision_config=vision, tie_word_embeddings=tied)


def _qwen3_vl_8b() -> Any:
    text = {
        "hidden_size": 4096,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "intermediate_size": 12288,
        "vocab_size": 151936,
    }
    vision = {
        "depth": 27,
        "hidden_size": 1152,
        "num_heads": 16,
        "intermediate_size": 4304,
        "out_hidden_size": 4096,
        "patch_size": 16,
        "deepstack_visual_indexes": [8, 16, 24],
    }
    return Qwen3VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=False)


PUBLISHED: dict[str, Callable[[], Any]] = {
    "Qwen2.5-VL-3B-Instruct": lambda: _qwen2_5_vl(2048, 36, 16, 2, 11008, 151936),
    "Qwen2.5-VL-7B-Instruct": lambda: _qwen2_5_vl(3584, 28, 28, 4, 18944, 152064),
    "Qwen2.5-VL-32B-Instruct": lambda: _qwen2_5_vl(5120, 64, 40, 8, 27648, 152064, 3456),
    "Qwen2.5-VL-72B-Instruct": lambda: _qwen2_5_vl(8192, 80, 64, 8, 29568, 152064, 3456),
    "Qwen3-VL-8B-Instruct": _qwen3_vl_8b,
}
"""Configurations by the name of a model's directory, as in the `config.json` of the Hugging Face repository of that name."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """Sizes of a model. `layer_parameters` and `embedding_parameters` are those of one layer and of one table of embeddings;
    `attention_layers` are those of the `layers` that keep keys and values of every token. `expert_parameters` are those of all
    experts, of which a token goes through the share `routed`."""

    name: str
    parameters: int
    vision_parameters: int
    layer_parameters: int
    embedding_parameters: int
    layers: int
    attention_layers: int
    hidden: int
    inner: int
    query_width: int
    key_value_width: int
    key_value_heads: int
    vocabulary: int
    vision_layers: int = 0
    vision_hidden: int = 0
    vision_inner: int = 0
    patches_per_token: int = 1
    patch_numbers: int = 0
    expert_parameters: int = 0
    routed: float = 1.0

    @classmethod
    def of(cls, policy: str) -> Architecture:
        """The sizes of the policy in a directory, or of a published model of the directory's name.

        Raises UsageError if there is neither.
        """
        path = STARTERS.get(policy) or Path(policy).expanduser()
        if (path / "config.json").is_file():
            return cls.of_config(path.name, AutoConfig.from_pretrained(path))
        if path.name in PUBLISHED:
            return cls.of_config(path.name, PUBLISHED[path.name]())
        raise UsageError(f"policy={policy}: there is no model in it, and no published one has its name: {', '.join(PUBLISHED)}")

    @classmethod
    def of_config(cls, name: str, config: PretrainedConfig) -> Architecture:
        """The sizes of a configuration of transformers; parameters are counted in the model itself, without memory."""
        text, vision = config.get_text_config(), getattr(config, "vision_config", None)
        make = AutoModelForImageTextToText if vision is not None else AutoModelForCausalLM
        with torch.device("meta"):
            model = make.from_config(config)
        sizes = {name: weight.numel() for name, weight in model.named_parameters()}
        in_vision = {name: size for name, size in sizes.items() if any(part in name for part in ("visual.", "vision_"))}
        layer = sum(size for name, size in sizes.items() if _LAYER in name and name not in in_vision)
        head_width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        kinds = getattr(text, "layer_types", None) or ["full_attention"] * text.num_hidden_layers
        seen: dict[str, int] = {}
        if vision is not None:
            merge, patch = getattr(vision, "spatial_merge_size", 1), vision.patch_size
            seen = {
                "vision_layers": getattr(vision, "depth", None) or vision.num_hidden_layers,
                "vision_hidden": vision.hidden_size,
                "vision_inner": vision.intermediate_size,
                "patches_per_token": merge**2,
                "patch_numbers": 3 * patch**2 * getattr(vision, "temporal_patch_size", 1),
            }
        return cls(
            name=name,
            parameters=sum(sizes.values()),
            vision_parameters=sum(in_vision.values()),
            layer_parameters=layer,
            embedding_parameters=model.get_input_embeddings().weight.numel(),
            layers=text.num_hidden_layers,
            attention_layers=sum(kind != "linear_attention" for kind in kinds),
            hidden=text.hidden_size,
            inner=_inner(text),
            query_width=text.num_attention_heads * head_width,
            key_value_width=text.num_key_value_heads * head_width,
            key_value_heads=text.num_key_value_heads,
            vocabulary=text.vocab_size,
            expert_parameters=sum(size for name, size in sizes.items() if ".experts." in name),
            routed=_routed(text),
            **seen,
        )

    def used_parameters(self, tokens: float = 1.0) -> float:
        """Those that at least one of so many tokens goes through, if each goes through experts of its own at random."""
        return self.parameters - self.expert_parameters * (1 - self.routed) ** tokens

    @property
    def linear_widths(self) -> list[tuple[int, int]]:
        """(inputs, outputs) of the matrices of one text layer: queries, keys, values, output, gate, up, down."""
        hidden, query, key_value, inner = self.hidden, self.query_width, self.key_value_width, self.inner
        shapes = [(hidden, query), (hidden, key_value), (hidden, key_value), (query, hidden)]
        return [*shapes, (hidden, inner), (hidden, inner), (inner, hidden)]


def _routed(text: PretrainedConfig) -> float:
    """The share of its experts that a token goes through; 1 if there are none."""
    experts = expert_count(text)
    return text.num_experts_per_tok / experts if experts else 1.0


def _inner(text: PretrainedConfig) -> int:
    """The width of a layer's feed-forward part, of experts that of those together that a token goes through."""
    of_expert = getattr(text, "moe_intermediate_size", None)
    return text.num_experts_per_tok * of_expert if of_expert else text.intermediate_size
