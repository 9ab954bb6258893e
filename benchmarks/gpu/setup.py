"""The sizes of the benchmark, and its policies: random weights in the shapes of published models, with a vocabulary as large."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Setup:
    """All sizes. `whole` and `wide` name published models, the second of which has `wide_layers` layers only; "tiny" is a model
    for a CPU."""

    device: str = "cuda"
    dtype: str = "bfloat16"
    whole: str = "Qwen2.5-VL-3B-Instruct"
    wide: str = "Qwen2.5-VL-7B-Instruct"
    wide_layers: int = 4
    pixels: int = 1_003_520
    max_tokens: int = 2048
    """Longest transcript, and the engines' max_model_len."""
    batched_tokens: int = 8192
    at_a_time: int = 128
    """Sequences of one batch of the engine, and episodes that are played at a time."""
    action_tokens: int = 256
    groups: int = 16
    group_size: int = 8
    steps: int = 3
    prompts: int = 128
    prompt_tokens: int = 512
    sequences: int = 48
    sequence_tokens: tuple[int, int] = (512, 2048)
    micro_batch_tokens: int = 16384

    @classmethod
    def read(cls, place: Path) -> Setup:
        """The sizes of a run of the benchmark."""
        values = json.loads((place / "setup.json").read_text())
        return cls(**values | {"sequence_tokens": tuple(values["sequence_tokens"])})

    def policy(self, place: Path, which: str) -> Path:
        """Where the policy "whole" or "wide" is written."""
        return place / getattr(self, which)


FULL = Setup()
TINY = Setup(
    device="cpu",
    dtype="float32",
    whole="tiny",
    wide="tiny",
    wide_layers=1,
    pixels=112 * 112,
    max_tokens=512,
    batched_tokens=2048,
    at_a_time=8,
    action_tokens=16,
    groups=2,
    group_size=2,
    steps=2,
    prompts=4,
    prompt_tokens=32,
    sequences=6,
    sequence_tokens=(32, 128),
    micro_batch_tokens=512,
)
"""The same parts on a CPU, in a minute or two; its figures mean nothing."""

_UNNAMED = 271
"""Ids of Qwen2.5's vocabulary that name no token: its rows are rounded up."""


def write_policy(directory: Path, model: str, setup: Setup, layers: int | None = None) -> int:
    """Write a policy in the Hugging Face layout, its weights drawn on the setup's device; returns its parameters."""
    import torch
    from transformers import GenerationConfig, Qwen2_5_VLForConditionalGeneration

    from starter.policy import END, PAD, build_processor

    config = _tiny() if model == "tiny" else _published(model, layers)
    text = config.text_config
    named = len(build_processor().tokenizer)
    processor = build_processor(unused=text.vocab_size - named - (_UNNAMED if model != "tiny" else 0), pixels=setup.pixels)
    id_of = processor.tokenizer.convert_tokens_to_ids
    config.image_token_id, config.video_token_id = id_of("<|image_pad|>"), id_of("<|video_pad|>")
    config.vision_start_token_id, config.vision_end_token_id = id_of("<|vision_start|>"), id_of("<|vision_end|>")
    for part in (config, text):
        part.eos_token_id, part.pad_token_id, part.bos_token_id = id_of(END), id_of(PAD), id_of(PAD)
    dtype = getattr(torch, setup.dtype)
    torch.manual_seed(0)
    with torch.device(setup.device):
        made = Qwen2_5_VLForConditionalGeneration._from_config(config, dtype=dtype)
    made.generation_config = GenerationConfig(eos_token_id=id_of(END), pad_token_id=id_of(PAD), do_sample=True)
    made.save_pretrained(directory)
    processor.save_pretrained(directory)
    return made.num_parameters()


def spoken_ids(directory: Path) -> int:
    """Ids below this one are pieces of text; roles and placeholders come after them."""
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(directory)
    return min(tokenizer.added_tokens_decoder)


def _published(model: str, layers: int | None) -> Any:
    from transformers import Qwen2_5_VLConfig

    from learner.plan.architecture import PUBLISHED

    config = PUBLISHED[model]()
    text = config.text_config.to_dict() | {
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
        "max_position_embeddings": 32768,
    }
    if layers:
        text |= {"num_hidden_layers": layers, "max_window_layers": layers}
        text.pop("layer_types", None)  # one for each layer; they are all alike
    return Qwen2_5_VLConfig(
        text_config=text, vision_config=config.vision_config.to_dict(), tie_word_embeddings=config.tie_word_embeddings
    )


def _tiny() -> Any:
    from transformers import Qwen2_5_VLConfig

    text = {
        "vocab_size": 1024,
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 6, 6]},
        "initializer_range": 0.05,
        "tie_word_embeddings": True,
    }
    vision = {
        "depth": 2,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_heads": 4,
        "out_hidden_size": 128,
        "fullatt_block_indexes": [1],
        "initializer_range": 0.05,
    }
    return Qwen2_5_VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True)
