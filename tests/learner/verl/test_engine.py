"""What the engine changes of verl's: the type of an adapter."""

from types import SimpleNamespace

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from learner.verl.model.engine import PackedEngine

SIZES = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


def test_an_adapter_is_float32_whatever_the_weights_are():
    engine = PackedEngine.__new__(PackedEngine)
    engine.model_config = SimpleNamespace(
        lora_rank=4, lora_alpha=4, target_modules="all-linear", target_parameters=None, exclude_modules=None
    )
    model = Qwen2ForCausalLM._from_config(Qwen2Config(num_key_value_heads=2, **SIZES), dtype=torch.bfloat16)
    adapted = engine._build_lora_module(model)
    kinds = {(parameter.requires_grad, parameter.dtype) for parameter in adapted.parameters()}
    assert kinds == {(True, torch.float32), (False, torch.bfloat16)}
