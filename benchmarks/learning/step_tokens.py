"""The learner's speed on a model of SmolLM2-135M's shape, beside a plain loop on Hugging Face's model and PyTorch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from transformers import LlamaForCausalLM

from benchmarks.figures import Figure
from benchmarks.learning.one_rank import batch, policy, start, supervised_step
from learner.batch import Batch
from learner.config import LearnerConfig

SMOLLM2 = {
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "tie_word_embeddings": True,
}
SEQUENCES, STEPS = 8, 3


def measure(rounds: int = 2) -> list[Figure]:
    """Tokens per second of optimizer steps (AdamW, clipping) on 8 sequences of 40 to 160 tokens, the second half of each sampled.

    The reference is the faster of two loops: all sequences in one padded batch, and one sequence after another.
    """
    figure = Figure("step_tokens", "tokens/s", "Hugging Face and PyTorch, the faster of padded and one by one")
    with tempfile.TemporaryDirectory() as directory:
        policy(Path(directory), **SMOLLM2)
        for _ in range(rounds):
            ours, padded, single = (_timed(side, directory) for side in ("ours", "padded", "single"))
            for one, two, three in zip(ours, padded, single, strict=True):
                figure.add(one, max(two, three))
    return [figure]


def _timed(side: str, directory: str) -> list[float]:
    environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE"}
    command = [sys.executable, "-m", __name__, side, directory]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def _plain_step(directory: str, made: Batch, at_once: int) -> Callable[[], None]:
    model = LlamaForCausalLM.from_pretrained(directory, dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    sequences = [torch.from_numpy(example.sequences.tokens_S.astype(np.int64)) for example in made.examples_E]
    masks = [torch.from_numpy(example.sequences.loss_mask_S) for example in made.examples_E]
    labels = [torch.where(mask, tokens, -100) for tokens, mask in zip(sequences, masks, strict=True)]

    def step() -> None:
        for first in range(0, len(sequences), at_once):
            part = slice(first, first + at_once)
            inputs, targets = (
                torch.nn.utils.rnn.pad_sequence(rows[part], batch_first=True, padding_value=padding)
                for rows, padding in ((sequences, 0), (labels, -100))
            )
            lengths = torch.tensor([len(tokens) for tokens in sequences[part]])
            attended = torch.arange(inputs.shape[1]) < lengths[:, None]
            logits = model(input_ids=inputs, attention_mask=attended.long(), use_cache=False).logits[:, :-1]
            loss = F.cross_entropy(logits.flatten(0, 1), targets[:, 1:].flatten(), reduction="sum", ignore_index=-100)
            (loss / made.trained_tokens).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def _run(side: str, directory: str) -> None:
    cores = len(os.sched_getaffinity(0))
    torch.set_num_threads(cores)
    made = batch(np.random.default_rng(0).integers(40, 161, SEQUENCES).tolist(), SMOLLM2["vocab_size"])
    if side == "ours":
        config = LearnerConfig(threads_per_worker=cores)
        rank = start(Path(directory), config)

        def step() -> None:
            supervised_step(rank, made, np.arange(len(made)), config.micro_batch_tokens)
    else:
        step = _plain_step(directory, made, SEQUENCES if side == "padded" else 1)
    seconds = []
    for _ in range(1 + STEPS):
        began = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - began)
    print(json.dumps([int(made.lengths_N.sum()) / second for second in seconds[1:]]))


if __name__ == "__main__":
    _run(*sys.argv[1:])
