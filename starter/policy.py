"""The starter policy: a Qwen2.5-VL of about a million parameters with its own tokenizer and processor, built from a seed.

It is saved in the Hugging Face layout, so that vLLM and verl load it in the same way as a downloaded Qwen2.5-VL-7B. It learns
everything that it knows before it sees a tool in `starter.pretraining`.
"""

from __future__ import annotations

from itertools import filterfalse, islice, product
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    GenerationConfig,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2Tokenizer,
    Qwen2VLImageProcessor,
)
from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

from envs.worlds.microworld.scripts import SEARCH_VOCABULARY, VOCABULARY

PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
VISION = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
ROLES = ("system\n", "user\n", "assistant\n")
VIEW_PIXELS = 112 * 112
VOCABULARIES = {"microworld": VOCABULARY, "mixture": (*VOCABULARY, *SEARCH_VOCABULARY)}
"""Pieces of text that are one token each, by the world that the policy is for."""

# Qwen2.5-VL's turns, without the system turn that its own template puts in if none is given.
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def build_tokenizer(world: str = "microworld", unused: int = 0) -> Qwen2Tokenizer:
    """A byte-level tokenizer: every byte is a token, each digit too, and each frequent piece of `world` is one token.

    Into `unused` further pieces of four letters no text is ever split, but a policy can say them: a vocabulary of a large model's
    size.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = filterfalse(set(VOCABULARIES[world]).__contains__, map("".join, product(ascii_lowercase, repeat=4)))
    pieces = islice(words, unused)
    tokenizer = Tokenizer(models.BPE(vocab={piece: index for index, piece in enumerate((*alphabet, *pieces))}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in (PAD, START, END, *VISION)])
    tokenizer.add_tokens([AddedToken(piece, special=False, normalized=False) for piece in (*ROLES, *VOCABULARIES[world])])
    return Qwen2Tokenizer(tokenizer_object=tokenizer, eos_token=END, pad_token=PAD, unk_token=PAD, model_max_length=4096)


def build_processor(world: str = "microworld", unused: int = 0, pixels: int = VIEW_PIXELS) -> Qwen2_5_VLProcessor:
    """Tokenizer, image processor and chat template in one, as Qwen2.5-VL has them. An image of 112 × 112 pixels is 16 tokens; one
    of more than `pixels` is scaled down. `unused` as in `build_tokenizer`."""
    size = {"shortest_edge": 28 * 28, "longest_edge": pixels}
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(size=dict(size)),
        tokenizer=build_tokenizer(world, unused),
        video_processor=Qwen2VLVideoProcessor(size=dict(size)),
        chat_template=CHAT_TEMPLATE,
    )


def build_model(tokenizer: Qwen2Tokenizer, seed: int) -> Qwen2_5_VLForConditionalGeneration:
    """A float32 model with random weights drawn from `seed`."""
    ids: dict[str, Any] = {token: tokenizer.convert_tokens_to_ids(token) for token in (PAD, START, END, *VISION)}
    config = Qwen2_5_VLConfig(
        text_config={
            # Rounded up so that tensor-parallel and vectorised kernels find an even vocabulary.
            "vocab_size": -(-len(tokenizer) // 16) * 16,
            "hidden_size": 128,
            "intermediate_size": 384,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "max_position_embeddings": 4096,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 6, 6]},
            "bos_token_id": ids[PAD],
            "eos_token_id": ids[END],
            "pad_token_id": ids[PAD],
            "initializer_range": 0.05,
        },
        vision_config={
            "depth": 2,
            "hidden_size": 64,
            "intermediate_size": 192,
            "num_heads": 4,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "window_size": 112,
            "fullatt_block_indexes": [0, 1],
            "out_hidden_size": 128,
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=False,
        dtype="float32",
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Qwen2_5_VLForConditionalGeneration(config)
    model.generation_config = GenerationConfig(eos_token_id=ids[END], pad_token_id=ids[PAD], do_sample=True)
    return model


def build(directory: str | Path, seed: int = 0, world: str = "microworld") -> Path:
    """Write a policy with random weights in the Hugging Face layout to `directory` and return its path."""
    directory = Path(directory)
    processor = build_processor(world)
    build_model(processor.tokenizer, seed).save_pretrained(directory)
    processor.save_pretrained(directory)
    return directory
