"""How many tokens the learner's model computes for each that there is."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.figures import Figure
from benchmarks.learning.one_rank import batch, policy, start, supervised_step
from learner.config import LearnerConfig
from learner.verl.shares import divide

RANKS, SCALE = 4, 8
"""Among how many ranks a batch is divided, and by how much lengths and micro-batches are shorter than in the recipe."""


def measure() -> list[Figure]:
    """Tokens that reach the model's layers, filler of all ranks included, of a batch like the 7B recipe's and of an uneven one.

    The recipe's lengths: 7.4k tokens on average, log-normal, micro-batches of 24,576; here an eighth of it. The uneven batch:
    one episode of 1,099 tokens among 128 of 57 on average. Attention itself lengthens sequences by up to 15 % on CPU.
    """
    rng = np.random.default_rng(0)
    lengths = np.exp(rng.normal(np.log(7400 / SCALE) - 0.5**2 / 2, 0.5, 48)).astype(int)
    cases = {
        "padding": (lengths.tolist(), 24_576 // SCALE),
        "padding, one long episode": ([*rng.integers(30, 85, 127).tolist(), 1099], 16_384),
    }
    done = subprocess.run(
        [sys.executable, "-m", __name__], input=json.dumps(list(cases.values())), check=True, capture_output=True, text=True
    )
    figures = []
    for name, (computed, real) in zip(cases, json.loads(done.stdout.splitlines()[-1]), strict=True):
        figures.append(Figure(name, "tokens", "the tokens of the batch's sequences"))
        figures[-1].add(computed, real)
    return figures


def _run() -> None:
    counted = []
    with tempfile.TemporaryDirectory() as directory:
        sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
        policy_dir = policy(Path(directory), vocab_size=256, **sizes)
        rank = start(policy_dir, LearnerConfig())
        computed = [0]
        rank.module.model.layers[0].register_forward_pre_hook(
            lambda layer, hidden: computed.append(hidden[0].shape[0] * hidden[0].shape[1])
        )
        for lengths, micro_batch_tokens in json.loads(sys.stdin.read()):
            computed.clear()
            made = batch(lengths, 256)
            for share in divide(made, np.arange(len(made)), RANKS):
                supervised_step(rank, made, share, micro_batch_tokens)
            counted.append((sum(computed), int(made.lengths_N.sum())))
    print(json.dumps(counted))


if __name__ == "__main__":
    _run()
