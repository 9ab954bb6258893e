"""The learner's speed on a model of SmolLM2-135M's shape, beside a plain loop on Hugging Face's model and PyTorch."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
SEQUENCES = 16
ANSWER = "tokens per second:"


def measure(rounds: int = 3, sizes: dict[str, Any] | None = None) -> list[Figure]:
    """Tokens per second of optimizer steps (AdamW, clipping) on 16 sequences of 40 to 160 tokens, the second half of each sampled.

    The reference is the faster of two loops: all sequences in one padded batch, and one sequence after another. The sides take
    turns, step by step. `sizes` are a Llama's; SmolLM2-135M's if not given.
    """
    figure = Figure("step_tokens", "tokens/s", "Hugging Face and PyTorch, the faster of padded and one by one")
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as running:
        policy(Path(directory), **(sizes or SMOLLM2))
        ours, plain = (running.enter_context(_side(side, directory)) for side in ("ours", "plain"))
        for turn in range(1 + rounds):
            speeds = [_step(side, way) for side, way in ((ours, "packed"), (plain, "padded"), (plain, "one by one"))]
            if turn:  # the first round is warm-up
                figure.add(speeds[0], max(speeds[1:]))
    return [figure]


def _side(side: str, directory: str) -> subprocess.Popen[str]:
    environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE"}
    command = [sys.executable, "-m", __name__, side, directory]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, text=True, env=environment, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL)


def _step(side: subprocess.Popen[str], way: str) -> float:
    """Tokens per second of one step."""
    assert side.stdin and side.stdout
    print(way, file=side.stdin, flush=True)
    for line in side.stdout:  # verl prints as well
        if line.startswith(ANSWER):
            return float(line.removeprefix(ANSWER))
    raise RuntimeError(f"a side of step_tokens ended before it had taken its step: {side.args}")


def _plain(directory: str, made: Batch) -> Callable[[str], None]:
    model = LlamaForCausalLM.from_pretrained(directory, dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    sequences = [torch.from_numpy(example.sequences.tokens_S.astype(np.int64)) for example in made.examples_E]
    masks = [torch.from_numpy(example.sequences.loss_mask_S) for example in made.examples_E]
    labels = [torch.where(mask, tokens, -100) for tokens, mask in zip(sequences, masks, strict=True)]

    def step(way: str) -> None:
        at_once = len(sequences) if way == "padded" else 1
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


def _ours(directory: str, made: Batch, threads: int) -> Callable[[str], None]:
    config = LearnerConfig(threads_per_worker=threads)
    rank = start(Path(directory), config)
    return lambda way: supervised_step(rank, made, np.arange(len(made)), config.micro_batch_tokens)


def _run(side: str, directory: str) -> None:
    threads = len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    words = json.loads(Path(directory, "config.json").read_text())["vocab_size"]
    made = batch(np.random.default_rng(0).integers(40, 161, SEQUENCES).tolist(), words)
    step = _ours(directory, made, threads) if side == "ours" else _plain(directory, made)
    for way in sys.stdin:
        began = time.perf_counter()
        step(way.strip())
        print(ANSWER, made.lengths_N.sum() / (time.perf_counter() - began), flush=True)


if __name__ == "__main__":
    _run(*sys.argv[1:])
