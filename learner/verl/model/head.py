"""The output layer: log-probabilities and entropies of sampled tokens, without logits of vocabulary × tokens.

Only positions whose next token was sampled are scored. The vocabulary is walked over in blocks, forward and backward, with a
running maximum and sum (Milakov and Gimelshein 2018, arXiv:1805.02867); the backward pass computes each block's logits again, so
memory is one block's, whatever the vocabulary. All sums are float32, those in products of 16-bit numbers too. What the sampler
never draws is taken out of the distribution.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

BLOCK_BYTES = {"cpu": 32 << 20, "cuda": 256 << 20}
"""Size of one block of float32 logits. A processor's memory is faster for blocks that its allocator keeps."""

NEVER = -1e30
"""The logit of a banned token: finite, so that its share of the entropy is 0 and not 0 × infinity."""


@dataclass(frozen=True)
class Sampled:
    """What is asked of one row of hidden states: `places` (n,) in it, the tokens that follow there, and their temperatures."""

    places: torch.Tensor
    tokens: torch.Tensor
    temperatures: torch.Tensor
    with_entropy: bool


@dataclass(frozen=True)
class Bend:
    """What a model does with its output layer's logits: a factor (Granite, Cohere), then a soft cap (Gemma 2), infinite without."""

    factor: float = 1.0
    cap: float = math.inf

    @classmethod
    def of(cls, config: Any) -> Bend:
        """As the configuration of a language model has it, under transformers' names for it."""
        factor = (getattr(config, "logit_scale", None) or 1.0) / (getattr(config, "logits_scaling", None) or 1.0)
        return cls(factor, getattr(config, "final_logit_softcapping", None) or math.inf)

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        """The logits that are sampled from."""
        logits = logits if self.factor == 1.0 else logits * self.factor
        return logits if math.isinf(self.cap) else self.cap * torch.tanh(logits / self.cap)

    def slope(self, bent: torch.Tensor) -> torch.Tensor | float:
        """The derivative of `bent` logits by those of the output layer."""
        return self.factor if math.isinf(self.cap) else self.factor * (1 - (bent / self.cap).square()).clamp(min=0.0)


class Head(torch.nn.Module):
    """Stands in for an output embedding, with the same weight and bias under the same names.

    Where its model expects logits it returns log-probabilities and entropies (0 if not asked for), shape (1, n, 2), float32.
    Its own forward is called by the model, so FSDP has gathered the weight by then, tied to the input embedding or not.
    """

    def __init__(self, output_embedding: torch.nn.Linear) -> None:
        super().__init__()
        self.weight = output_embedding.weight
        self.bias = output_embedding.bias
        self.banned: list[int] = []
        self.bend = Bend()
        self.asked: Sampled | None = None
        self.answer: torch.Tensor | None = None

    def ban(self, token_ids: Sequence[int]) -> None:
        """Take tokens out of the distribution."""
        self.banned = sorted(token_ids)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Hidden states of one row, shape (1, tokens, H), → what `asked` asks of it."""
        asked = self.asked
        assert asked is not None, "Head.asked is set before a forward pass"
        log_probs, entropies = score(
            *(hidden[0].index_select(0, asked.places), self.weight, self.bias, asked.tokens, asked.temperatures),
            banned=self.banned,
            bend=self.bend,
            with_entropy=asked.with_entropy,
        )
        self.answer = torch.stack([log_probs, entropies], dim=-1)[None]
        return self.answer


def score(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    tokens: torch.Tensor,
    temperatures: torch.Tensor,
    *,
    banned: Sequence[int] = (),
    bend: Bend = Bend(),
    with_entropy: bool = True,
    block_bytes: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities of `tokens` (n,) under softmax(bend(hidden · weightᵀ + bias) / temperatures), and its entropies, both (n,).

    `hidden` is (n, H), `weight` (V, H), `temperatures` (n,). Natural logarithms, float32, differentiable in hidden, weight and
    bias. Without `with_entropy` the entropies are 0. `block_bytes` bounds the logits that exist at a time.
    """
    with torch.autocast(hidden.device.type, enabled=False):
        block = max(1, (block_bytes or BLOCK_BYTES[hidden.device.type]) // (4 * max(1, len(hidden))))
        return _Score.apply(hidden, weight, bias, tokens, temperatures, tuple(banned), bend, with_entropy, block)


class _Score(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        tokens: torch.Tensor,
        temperatures: torch.Tensor,
        banned: tuple[int, ...],
        bend: Bend,
        with_entropy: bool,
        block: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        rows = len(hidden)
        temperatures = temperatures.float().clamp(min=1e-8)
        blocks = _Blocks(hidden, weight, bias, temperatures, banned, bend, block)
        greatest, chosen = hidden.new_full((rows,), NEVER, dtype=torch.float32), hidden.new_zeros(rows, dtype=torch.float32)
        # Sums over the words w of exp(d_w) and d_w exp(d_w), d_w being w's logit less the greatest so far.
        total, weighted = torch.zeros_like(chosen), torch.zeros_like(chosen)
        logits = None
        for start, end, logits in blocks:
            inside, column = _find(tokens, start, end)
            chosen += torch.where(inside, logits.gather(1, column[:, None])[:, 0], 0.0)
            greater = torch.maximum(greatest, logits.amax(dim=1))
            fall = greatest - greater
            if with_entropy:
                less = logits - greater[:, None]
                exponentials = less.exp()
                weighted = fall.exp() * (weighted + total * fall) + torch.linalg.vecdot(exponentials, less)
            else:
                exponentials = (logits - greater[:, None]).exp_()
            total = total * fall.exp() + exponentials.sum(dim=1)
            greatest = greater
        log_total = total.log()
        normaliser = greatest + log_total
        entropies = log_total - weighted / total if with_entropy else torch.zeros_like(chosen)
        # A lone block is kept: it is no larger than what the backward pass would need to compute it again.
        kept = logits if len(blocks) == 1 and any(ctx.needs_input_grad[:3]) else None
        ctx.save_for_backward(hidden, weight, bias, tokens, temperatures, normaliser, entropies, kept)
        ctx.banned, ctx.bend, ctx.block, ctx.with_entropy = banned, bend, block, with_entropy
        return chosen - normaliser, entropies

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        of_log_probs, of_entropies = gradients
        hidden, weight, bias, tokens, temperatures, normaliser, entropies, kept = ctx.saved_tensors
        # An entropy that only a metric reads sends zeros back.
        entropic = ctx.with_entropy and bool(of_entropies.any())
        for_hidden, for_weight, for_bias = (
            torch.zeros_like(x, dtype=dtype) if needed else None
            for x, needed, dtype in zip(
                (hidden, weight, bias), ctx.needs_input_grad[:3], (torch.float32, weight.dtype, weight.dtype), strict=True
            )
        )
        blocks = _Blocks(hidden, weight, bias, temperatures, ctx.banned, ctx.bend, ctx.block)
        for start, end, logits in blocks if kept is None else [(0, len(weight), kept)]:
            slope = ctx.bend.slope(logits * temperatures[:, None]) if ctx.bend != Bend() else None
            log_probs = logits.sub_(normaliser[:, None]) if kept is None else logits - normaliser[:, None]
            gradient = log_probs.exp()
            if entropic:
                # The entropy's derivative by the logit of word w: -p_w (log p_w + entropy).
                gradient *= -of_log_probs[:, None] - of_entropies[:, None] * (log_probs + entropies[:, None])
            else:
                gradient *= -of_log_probs[:, None]
            inside, column = _find(tokens, start, end)
            gradient.scatter_add_(1, column[:, None], torch.where(inside, of_log_probs, 0.0)[:, None])
            gradient /= temperatures[:, None]
            if slope is not None:
                gradient *= slope
            gradient = gradient.to(hidden.dtype)
            if for_hidden is not None:
                for_hidden += _product(gradient, weight[start:end])
            if for_weight is not None:
                torch.mm(gradient.T, hidden, out=for_weight[start:end])
            if for_bias is not None:
                for_bias[start:end] = gradient.sum(dim=0)
        if for_hidden is not None:
            for_hidden = for_hidden.to(hidden.dtype)
        return for_hidden, for_weight, for_bias, None, None, None, None, None, None


class _Blocks:
    """The logits of all rows, over their temperatures, block of words after block of words."""

    def __init__(
        self,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        temperatures: torch.Tensor,
        banned: tuple[int, ...],
        bend: Bend,
        block: int,
    ) -> None:
        self.hidden, self.weight, self.bias, self.temperatures = hidden, weight, bias, temperatures
        self.banned, self.bend = banned, bend
        self.starts = range(0, len(weight), block)

    def __len__(self) -> int:
        return len(self.starts)

    def __iter__(self) -> Iterator[tuple[int, int, torch.Tensor]]:
        for start in self.starts:
            end = min(start + self.starts.step, len(self.weight))
            logits = _product(self.hidden, self.weight[start:end].T)
            if self.bias is not None:
                logits += self.bias[start:end]
            logits = self.bend(logits)
            logits /= self.temperatures[:, None]
            banned = [token - start for token in self.banned if start <= token < end]
            if banned:
                logits[:, banned] = NEVER
            yield start, end, logits


def _find(tokens: torch.Tensor, start: int, end: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Which tokens lie in a block, and their columns there; the others' columns are any."""
    return (tokens >= start) & (tokens < end), (tokens - start).clamp(0, end - start - 1)


def _product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """The matrix product in float32, of 16-bit factors too."""
    if left.dtype == torch.float32 or not left.numel():
        return (left @ right).float()
    if left.is_cuda:
        return torch.mm(left, right, out_dtype=torch.float32)
    return left.float() @ right.float()
