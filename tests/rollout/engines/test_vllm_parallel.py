"""An engine of several processes, as on several GPUs: each maps the new weights for itself."""

import asyncio

import pytest
import ray
import torch
from transformers import AutoModelForImageTextToText

from rollout.cluster.weights import Sender
from rollout.config import EngineConfig, RolloutConfig
from rollout.engines.vllm import VllmPolicy
from rollout.tokens.chat_format import banned_token_ids


@pytest.mark.slow
async def test_with_tensor_parallelism_an_update_reaches_every_process(policy_directory, other_policy_directory, chat, monkeypatch):
    if not torch.cuda.is_available():
        monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "0|1")
    elif torch.cuda.device_count() < 2:
        pytest.skip("there is one GPU")
    ray.shutdown()
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, configure_logging=False)
    options = EngineConfig(policy=policy_directory, max_model_len=512, tensor_parallel_size=2)
    policy = await asyncio.to_thread(VllmPolicy, RolloutConfig(engine=options))
    try:
        model = AutoModelForImageTextToText.from_pretrained(other_policy_directory, dtype=torch.float32)
        sender = Sender()
        await policy.publish(sender.share(model.state_dict().items()).tensors(), 1)
        prompt = list(range(40, 80))
        sampled = await policy.generate(prompt, [], max_tokens=12, temperature=1.0, seed=1)
    finally:
        await policy.close()
        ray.shutdown()
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prompt + sampled.token_ids])).logits[0, len(prompt) - 1 : -1]
    logits[:, banned_token_ids(chat.tokenizer, model.config)] = -torch.inf
    expected = torch.log_softmax(logits, dim=-1).gather(1, torch.tensor(sampled.token_ids)[:, None])[:, 0]
    assert sampled.logprobs == pytest.approx(expected.tolist(), abs=1e-4)
