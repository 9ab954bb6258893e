"""The memory of log-probabilities and entropies, forward and backward, beside that of whole logits."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import torch

from benchmarks.figures import Figure
from learner.verl.model.head import score

WORDS, HIDDEN, TOKENS = 152_064, 64, 8192
"""The vocabulary of Qwen2.5-VL-7B, and fewer hidden units than it has, since the weight and its gradient are no logits."""

_COPIES = 6
"""Tensors of tokens × words, float32, that the naive way was seen to hold at its peak, rounded up."""


def measure() -> list[Figure]:
    """Peak growth of a process in megabytes (10⁶ bytes), for 8,192 tokens or as many as a third of the free memory holds."""
    room = psutil.virtual_memory().available // 3
    tokens = min(TOKENS, 1 << (room // (4 * WORDS * _COPIES)).bit_length() - 1)
    figure = Figure("head_memory", "MB", f"log_softmax over whole logits, {tokens:,} tokens × {WORDS:,} words")
    figure.add(*(_peak(side, tokens) for side in ("ours", "naive")))
    return [figure]


def _peak(side: str, tokens: int) -> float:
    done = subprocess.run([sys.executable, "-m", __name__, side, str(tokens)], check=True, capture_output=True, text=True)
    return float(done.stdout)


def naive(hidden: torch.Tensor, weight: torch.Tensor, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The same as `score`, as one would write it."""
    distribution = torch.log_softmax(hidden @ weight.T, dim=-1)
    return distribution.gather(-1, tokens[:, None])[:, 0], -(distribution.exp() * distribution).sum(dim=-1)


def _run(side: str, tokens: int) -> float:
    torch.manual_seed(0)
    hidden, weight = torch.randn(tokens, HIDDEN, requires_grad=True), torch.randn(WORDS, HIDDEN, requires_grad=True)
    labels = torch.randint(WORDS, (tokens,))
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = psutil.Process().memory_info().rss
    log_probs, entropies = (
        score(hidden, weight, None, labels, torch.ones(tokens)) if side == "ours" else naive(hidden, weight, labels)
    )
    (log_probs.mean() + 0.01 * entropies.mean()).backward()
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return (int(status["VmHWM"].split()[0]) * 1024 - before) / 1e6


if __name__ == "__main__":
    print(_run(sys.argv[1], int(sys.argv[2])))
