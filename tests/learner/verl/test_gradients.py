"""The gradient of a policy step is plain Hugging Face's and PyTorch's, for each family, on one rank, on two, and on two by Ulysses.

The batch has several images, some of them shared, lengths, temperatures and micro-batches, banned tokens and an entropy bonus.
Log-probabilities are compared as well. A further family is a further row of FAMILIES.
"""

import pickle
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from families import conversations, policy
from forks import FORKS, rendezvous
from ranks import ENTROPY, learn, plain, refuse
from transformers import (
    AutoConfig,
    GraniteConfig,
    GraniteForCausalLM,
    HyperCLOVAXConfig,
    HyperCLOVAXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
)

from learner.batch import Batch
from learner.config import LearnerConfig
from rollout.tokens.chat_format import ChatFormat, banned_token_ids

SIZES = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
WINDOW = {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1}

EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32}


@dataclass(frozen=True)
class Family:
    """A model of random weights, one of `families`, or else the starter policy; settings of the learner; and how it is computed.

    verl cuts sequences for Ulysses in the models that it knows, and in kin of theirs too: one of them for a process.
    """

    model: Any = None
    config: Any = None
    policy: str = ""
    learner: dict[str, Any] = field(default_factory=dict)
    ulysses: bool = True


FAMILIES = {
    "llama, tied": Family(LlamaForCausalLM, LlamaConfig(**SIZES, tie_word_embeddings=True)),
    "qwen2, layers computed again": Family(Qwen2ForCausalLM, Qwen2Config(**SIZES), learner={"gradient_checkpointing": True}),
    "qwen2 with a sliding window": Family(Qwen2ForCausalLM, Qwen2Config(**SIZES, **WINDOW)),
    "qwen2_moe, dropout and a window of the mask alone": Family(
        Qwen2MoeForCausalLM, Qwen2MoeConfig(**SIZES, **EXPERTS, **WINDOW, attention_dropout=0.2), ulysses=False
    ),
    "granite, logits scaled": Family(GraniteForCausalLM, GraniteConfig(**SIZES, logits_scaling=0.5), ulysses=False),
    "qwen3": Family(policy="qwen3"),
    "qwen3_moe": Family(policy="qwen3_moe"),
    "qwen2_vl": Family(policy="qwen2_vl", ulysses=False),
    "qwen2_5_vl": Family(),
    "qwen3_vl, layers computed again": Family(policy="qwen3_vl", learner={"gradient_checkpointing": True}),
    "qwen3_5, layers computed again": Family(policy="qwen3_5", learner={"gradient_checkpointing": True}, ulysses=False),
    "qwen3_vl_moe": Family(policy="qwen3_vl_moe", ulysses=False),
    "idefics3": Family(policy="idefics3", ulysses=False),
    "internvl": Family(policy="internvl", ulysses=False),
    "mistral3": Family(policy="mistral3", ulysses=False),
}
SCALED = Family(HyperCLOVAXForCausalLM, HyperCLOVAXConfig(**SIZES, logits_scaling=0.1))
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
    for name, family in (FAMILIES | {"scaled": SCALED}).items():
        directory = tmp_path_factory.mktemp("family")
        folder = policy_dir
        if family.model:
            torch.manual_seed(0)
            folder = directory / "policy"
            family.model(family.config).save_pretrained(folder)
            processor.tokenizer.save_pretrained(folder)
        episodes, banned = [], [3, 259, 261]
        if family.policy:
            folder = policy(family.policy, directory / "policy")
            chat = ChatFormat.from_directory(folder)
            episodes, banned = conversations(chat), banned_token_ids(chat.tokenizer, AutoConfig.from_pretrained(folder))
        for seed in range(0 if family.policy else 7):
            sees = family.model is None and seed != 4
            images = [picture(seed // 3), *[picture(100 + seed + more) for more in range(seed % 3)]] if sees else []
            episodes.append(make_episode(images, seed, f"{seed // 3}", temperature=0.5 + seed / 4, prompt=8 + 3 * seed))
        advantages = np.random.default_rng(1).normal(size=len(episodes)).astype(np.float32)
        settings = {"entropy_coefficient": ENTROPY, "micro_batch_tokens": 150, "threads_per_worker": 1} | family.learner
        case = Batch.of_episodes(episodes), folder, advantages, banned, LearnerConfig(**settings)
        (directory / "case.pickle").write_bytes(pickle.dumps(case))
        directories[name] = directory
    return directories


@pytest.fixture(scope="module")
def computed(cases):
    """Both sides' gradients of all families are in their directories."""
    of_way = {
        name: [cases[family] for family, case in FAMILIES.items() if case.ulysses or "ulysses" not in way]
        for name, way in WAYS.items()
    }
    jobs = [(plain, ([cases[family] for family in FAMILIES],), {}), (refuse, (cases["scaled"], rendezvous()), {})]
    for name, way in WAYS.items():
        place = rendezvous()
        jobs += [(learn, (of_way[name], name, rank), {"place": place, **way}) for rank in range(way["ranks"])]
    started = [FORKS.Process(target=target, args=args, kwargs=kwargs) for target, args, kwargs in jobs]
    for process in started:
        process.start()
    for process in started:
        process.join()
    assert [process.exitcode for process in started] == [0] * len(started)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_policy_step_has_hugging_faces_gradient(cases, computed, family, way):
    if WAYS[way].get("ulysses") and not FAMILIES[family].ulysses:
        pytest.skip("verl has no Ulysses for this family, or for two kin in one process")
    (expected, of_rows), (found, log_probs, rows) = (torch.load(cases[family] / f"{side}.pt") for side in ("plain", way))
    torch.testing.assert_close(log_probs, torch.cat([of_rows[row] for row in rows]), atol=1e-5, rtol=0)
    assert found.keys() == expected.keys()
    norm = torch.stack([gradient.norm() for gradient in expected.values()]).norm()
    for name, gradient in expected.items():
        assert (found[name] - gradient).norm() <= 1e-5 * norm, name
    assert norm > 0.01


def test_a_model_that_scales_its_logits_otherwise_than_its_configuration_says_is_refused(cases, computed):
    assert (
        (cases["scaled"] / "refused.txt").read_text().startswith("FSDPHyperCLOVAXForCausalLM scales, caps or replaces the logits")
    )
