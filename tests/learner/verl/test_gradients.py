"""The gradient of a policy step is plain Hugging Face's and PyTorch's, for each family, on one rank, on two, and on two by Ulysses.

The batch has several images, some of them shared, lengths, temperatures and micro-batches, banned tokens and an entropy bonus. A
further family is a further row of FAMILIES.
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
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from learner.batch import Batch
from learner.config import LearnerConfig

SIZES = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
WINDOW = {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1}


@dataclass(frozen=True)
class Family:
    """A model of random weights, or the starter policy if there is none; whether it sees; and settings of the learner."""

    model: Any = None
    config: Any = None
    images: bool = False
    learner: dict[str, Any] = field(default_factory=dict)


FAMILIES = {
    "llama, tied": Family(LlamaForCausalLM, LlamaConfig(**SIZES, tie_word_embeddings=True)),
    "qwen2, layers computed again": Family(Qwen2ForCausalLM, Qwen2Config(**SIZES), learner={"gradient_checkpointing": True}),
    "qwen2 with a sliding window": Family(Qwen2ForCausalLM, Qwen2Config(**SIZES, **WINDOW)),
    "qwen2_5_vl": Family(images=True),
}
WAYS = {
    "1 rank": {"ranks": 1},
    "1 rank, old log-probabilities recomputed": {"ranks": 1, "recompute_old": True},
    "2 ranks": {"ranks": 2},
    "2 ranks by Ulysses": {"ranks": 2, "ulysses": 2},
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
            images = [picture(seed // 3), *[picture(100 + seed + more) for more in range(seed % 3)]] if family.images else []
            images = [] if seed == 4 else images
            episodes.append(make_episode(images, seed, f"{seed // 3}", temperature=0.5 + seed / 4, prompt=8 + 3 * seed))
        advantages = np.random.default_rng(1).normal(size=len(episodes)).astype(np.float32)
        settings = {"entropy_coefficient": ENTROPY, "micro_batch_tokens": 150, "threads_per_worker": 1} | family.learner
        case = Batch.of_episodes(episodes), folder, advantages, [3, 259, 261], LearnerConfig(**settings)
        (directory / "case.pickle").write_bytes(pickle.dumps(case))
        directories[name] = directory
    return directories


@pytest.fixture(scope="module")
def computed(cases):
    """Both sides' gradients of all families are in their directories."""
    processes = multiprocessing.get_context("forkserver")
    # verl settles on a platform while it is imported, once for all processes.
    environment = {
        "VERL_PLATFORM": "cpu",
        "VERL_USE_EXTERNAL_MODULES": "learner.verl.cpu_platform",
        "VERL_LOGGING_LEVEL": "WARNING",
    }
    processes.set_forkserver_preload(["learner.verl.worker"])
    directories = list(cases.values())
    started = [processes.Process(target=plain, args=(directories,))]
    for name, way in WAYS.items():
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        for rank in range(way["ranks"]):
            started.append(processes.Process(target=learn, args=(directories, name, rank), kwargs={"port": port, **way}))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        for process in started:
            process.start()
    for process in started:
        process.join()
    assert [process.exitcode for process in started] == [0] * len(started)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_policy_step_has_hugging_faces_gradient(cases, computed, family, way):
    expected, found = (torch.load(cases[family] / f"{side}.pt") for side in ("plain", way))
    assert found.keys() == expected.keys()
    norm = torch.stack([gradient.norm() for gradient in expected.values()]).norm()
    for name, gradient in expected.items():
        assert (found[name] - gradient).norm() <= 1e-5 * norm, name
    assert norm > 0.01
