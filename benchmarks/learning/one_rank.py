"""A learner's rank in this process, with a text policy of random weights and sequences of given lengths, for the benchmarks."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from learner.batch import Batch, Example
from learner.config import LearnerConfig
from rollout.sequences import Sequences


def policy(directory: Path, **sizes: Any) -> Path:
    """A Llama of these sizes in the Hugging Face layout."""
    LlamaForCausalLM(LlamaConfig(**sizes)).save_pretrained(directory)
    words = Tokenizer(WordLevel({"<pad>": 0, "<unk>": 1}, unk_token="<unk>"))
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", unk_token="<unk>").save_pretrained(directory)
    return directory


def batch(lengths: Sequence[int], words: int, prompt: float = 0.5) -> Batch:
    """Sequences of these lengths, of random tokens; the first `prompt` of each was not sampled. Four are a group."""
    rng = np.random.default_rng(0)
    examples = []
    for number, length in enumerate(lengths):
        mask = np.arange(length) >= max(1, int(prompt * length))
        sequences = Sequences(
            episode_id=f"episode-{number}",
            tokens_S=rng.integers(2, words, length).astype(np.int32),
            loss_mask_S=mask,
            logprobs_S=np.zeros(length, dtype=np.float32),
            lengths_N=np.array([length]),
            trained_N=np.array([mask.sum()]),
            images_N=[[]],
            images={},
            temperature=1.0,
        )
        examples.append(Example(sequences, (length,), (int(mask.sum()),), f"group-{number // 4}", 0.0, 1.0))
    return Batch.of(examples)


def start(policy_dir: Path, config: LearnerConfig) -> Any:
    """A rank that is alone."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in place.items()})
    os.environ.update(
        VERL_PLATFORM="cpu", VERL_USE_EXTERNAL_MODULES="rollout.engines.verl.cpu_platform", VERL_LOGGING_LEVEL="ERROR"
    )
    # Imported late: verl settles on a platform while it is imported.
    from learner.verl.worker import Rank

    return Rank(str(policy_dir), config, 0, [])


def supervised_step(rank: Any, batch: Batch, share: np.ndarray, micro_batch_tokens: int) -> None:
    """One optimizer step on a share of a batch."""
    options = {
        "use_dynamic_bsz": True,
        "max_token_len_per_gpu": max(int(batch.lengths_N.max()), micro_batch_tokens),
        "mini_batch_size": len(share),
        "mini_batches": 1,
        "temperature": 1.0,
    }
    rank.update("supervised", batch, [share], options, 1e-5)
