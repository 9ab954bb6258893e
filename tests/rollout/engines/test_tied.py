"""A policy whose output layer is its embedding: after an update the engine says what Hugging Face says with the new weights. An
engine whose update lacks a weight says nothing any more."""

import asyncio

import pytest
import torch
from rollout_fakes import picture, show
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2_5_VLForConditionalGeneration,
)

from envs.errors import InfrastructureError
from rollout.config import EngineConfig, RolloutConfig
from rollout.engines.vllm import VllmPolicy
from rollout.tokens.chat_format import ChatFormat, banned_token_ids
from rollout.tokens.transcript import Transcript
from starter.policy import build_model, build_processor


def save_text(directory):
    """A tiny Llama."""
    tokenizer = build_processor().tokenizer
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.2,
        tie_word_embeddings=True,
        dtype="float32",
    )
    LlamaForCausalLM(config).save_pretrained(directory)
    tokenizer.chat_template = build_processor().chat_template
    tokenizer.save_pretrained(directory)
    return AutoModelForCausalLM


def save_vision(directory):
    """A tiny Qwen2.5-VL, tied as the one of 3 billion parameters is."""
    processor = build_processor()
    config = build_model(processor.tokenizer, 0).config
    config.tie_word_embeddings = config.text_config.tie_word_embeddings = True
    config.text_config.initializer_range = 0.2
    Qwen2_5_VLForConditionalGeneration(config).save_pretrained(directory)
    processor.save_pretrained(directory)
    return AutoModelForImageTextToText


@pytest.mark.parametrize(("save", "images"), [(save_text, 0), (save_vision, 2)])
async def test_after_an_update_a_tied_policy_is_the_new_one(save, images, tmp_path):
    torch.manual_seed(0)
    model = save(tmp_path).from_pretrained(tmp_path, dtype=torch.float32)
    chat = ChatFormat.from_directory(str(tmp_path))
    transcript = Transcript(chat, max_tokens=400)
    show(transcript, "What is to be seen here?", [picture(number) for number in range(images)])
    policy = await asyncio.to_thread(
        VllmPolicy, RolloutConfig(engine=EngineConfig(policy=str(tmp_path), max_model_len=512, cpu_cache_gib=0.125))
    )
    try:
        with torch.no_grad():
            for weight in model.parameters():
                weight.mul_(0.8).add_(0.02 * torch.randn_like(weight))
        tied = set(model._tied_weights_keys)
        await policy.publish({name: weight for name, weight in model.state_dict().items() if name not in tied}, 1)
        sampled = await policy.generate(transcript.token_ids, transcript.images, max_tokens=12, temperature=1.0, seed=1)
    finally:
        await policy.close()
    assert sampled.logprobs == pytest.approx(log_probs(model, chat, tmp_path, transcript, sampled.token_ids), abs=1e-4)


async def test_an_engine_serves_nothing_after_an_update_that_lacks_a_weight(tmp_path):
    state = save_text(tmp_path).from_pretrained(tmp_path, dtype=torch.float32).state_dict()
    del state["lm_head.weight"], state["model.layers.1.mlp.down_proj.weight"]
    options = EngineConfig(policy=str(tmp_path), max_model_len=512, cpu_cache_gib=0.125, extra={"served_model_name": "tiny"})
    policy = await asyncio.to_thread(VllmPolicy, RolloutConfig(engine=options))
    assert policy._engine.model_config.served_model_name == "tiny"
    with pytest.raises(InfrastructureError, match=r"has no model\.layers\.1\.mlp\.down_proj\.weight, and 1 are missing"):
        await policy.publish(state, 1)
    with pytest.raises(InfrastructureError):
        await policy.generate([5, 6, 7], [], max_tokens=4, temperature=1.0, seed=0)
    assert not policy.healthy
    await policy.close()


def log_probs(model, chat, directory, transcript, sampled):
    """Those of Hugging Face's model, without the tokens that nobody may sample."""
    ids = torch.tensor([transcript.token_ids + sampled])
    inputs = {}
    if transcript.images:
        pictures = build_processor().image_processor([image.image for image in transcript.images], return_tensors="pt")
        inputs = {"mm_token_type_ids": (ids == chat.image_token).int(), **pictures}
    with torch.no_grad():
        logits = model(input_ids=ids, **inputs).logits[0]
    logits[:, banned_token_ids(chat.tokenizer, model.config)] = -torch.inf
    start = len(transcript.token_ids) - 1
    return torch.log_softmax(logits[start:-1], dim=-1).gather(1, torch.tensor(sampled)[:, None])[:, 0].tolist()
