"""The gradient of a policy step is plain Hugging Face's and PyTorch's, for each family, on one rank, on two, and on two by Ulysses.

The batch has several images, lengths, temperatures and micro-batches, banned tokens, ratios on both sides of the clip range and an
entropy bonus. A further family is a further row of FAMILIES.
"""

import multiprocessing
import pickle
import socket
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from ranks import ENTROPY, learn, plain
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from learner.batch import Collator
from learner.config import LearnerConfig

SIZES = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


@dataclass(frozen=True)
class Family:
    """A model of random weights: its class and configuration, or the starter policy if there is none; and how it is trained."""

    model: Any = None
    config: Any = None
    images: bool = False
    learner: dict[str, Any] = field(default_factory=dict)


FAMILIES = {
    "llama, tied": Family(LlamaForCausalLM, LlamaConfig(**SIZES, tie_word_embeddings=True)),
    "qwen2": Family(Qwen2ForCausalLM, Qwen2Config(**SIZES)),
    "qwen2 with a sliding window": Family(
        Qwen2ForCausalLM, Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=7, max_window_layers=1)
    ),
    "qwen2, layers computed again": Family(Qwen2ForCausalLM, Qwen2Config(**SIZES), learner={"gradient_checkpointing": True}),
    "qwen2_5_vl": Family(images=True),
}


@pytest.fixture(scope="module")
def cases(policy_dir, processor, make_episode, picture, tmp_path_factory):
    """One directory a family."""
    directories = {}
    for name, family in FAMILIES.items():
        directory = tmp_path_factory.mktemp("family")
        folder = policy_dir
        if family.model:
            torch.manual_seed(0)
            folder = directory / "policy"
            family.model(family.config).save_pretrained(folder)
            processor.tokenizer.save_pretrained(folder)
        episodes = []
        for seed in range(7):
            images = [picture(0), *[picture(100 + seed + more) for more in range(seed % 3)]] if family.images and seed != 4 else []
            episodes.append(make_episode(images, seed, temperature=0.5 + seed / 4, prompt=8 + 3 * seed))
        batch = Collator(processor if family.images else AutoTokenizer.from_pretrained(folder))(episodes)
        rng = np.random.default_rng(1)
        # A random model's log-probabilities are near minus the logarithm of the vocabulary; the ratios then lie around 1.
        old_log_probs = (rng.normal(-np.log(320), 0.5, batch.tokens_N_T.shape)).astype(np.float32)
        advantages = rng.normal(size=len(batch)).astype(np.float32)
        settings = {"entropy_coefficient": ENTROPY, "micro_batch_tokens": 150, "threads_per_worker": 1} | family.learner
        case = batch, folder, advantages, old_log_probs, [3, 259, 261], LearnerConfig(**settings)
        (directory / "case.pickle").write_bytes(pickle.dumps(case))
        directories[name] = directory
    return directories


@pytest.fixture(scope="module")
def computed(cases):
    """Both sides' gradients of all families are in their directories."""
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["torch", "transformers"])
    paths = list(cases.values())
    jobs = [(plain, (paths,)), (learn, (paths, "1 rank", 0, 1, _port()))]
    port = _port()
    jobs += [(learn, (paths, "2 ranks", rank, 2, port)) for rank in range(2)]
    started = [processes.Process(target=target, args=args) for target, args in jobs]
    for process in started:
        process.start()
    for process in started:
        process.join()
    assert [process.exitcode for process in started] == [0] * len(started)


def _port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.mark.parametrize("ranks", ["1 rank", "2 ranks"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_policy_step_has_hugging_faces_gradient(cases, computed, family, ranks):
    expected, found = (torch.load(cases[family] / f"{side}.pt") for side in ("plain", ranks))
    assert found.keys() == expected.keys()
    norm = torch.stack([gradient.norm() for gradient in expected.values()]).norm()
    for name, gradient in expected.items():
        assert (found[name] - gradient).norm() <= 1e-5 * norm, name
    assert norm > 0.1
