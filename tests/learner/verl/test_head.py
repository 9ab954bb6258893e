"""The output layer computes what double precision computes with whole logits: values and gradients, at whatever block size."""

import pytest
import torch

from learner.verl.model.head import Bend, Head, Sampled, score

BANNED = [0, 7, 99]


def whole(hidden, weight, bias, tokens, temperatures, bend=lambda logits: logits):
    """Log-probabilities and entropies by way of whole logits."""
    logits = bend(hidden @ weight.T + (0 if bias is None else bias)) / temperatures[:, None]
    distribution = torch.log_softmax(logits.index_fill(1, torch.tensor(BANNED), -1e30), dim=-1)
    return distribution.gather(1, tokens[:, None])[:, 0], -(distribution.exp() * distribution).sum(dim=1)


@pytest.fixture
def inputs():
    torch.manual_seed(0)
    hidden, weight, bias = torch.randn(37, 16), torch.randn(100, 16) * 2, torch.randn(100)
    return hidden, weight, bias, torch.randint(8, 99, (37,)), torch.rand(37) + 0.5


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("words_at_a_time", [100, 33, 7, 1])
@pytest.mark.parametrize("entropy_weight", [0.0, 0.7])
@pytest.mark.parametrize("bend", [Bend(), Bend(0.3, 20.0)], ids=["plain", "scaled and capped"])
def test_values_and_gradients_equal_those_of_whole_logits(inputs, with_bias, words_at_a_time, entropy_weight, bend):
    hidden, weight, bias, tokens, temperatures = inputs
    bias = bias if with_bias else None
    block_bytes = 4 * len(hidden) * words_at_a_time
    gradients, values = [], []
    for kind, function in (
        (torch.float32, lambda *args: score(*args, banned=BANNED, bend=bend, block_bytes=block_bytes)),
        (torch.float64, lambda *args: whole(*args, bend)),
    ):
        leaves = [None if x is None else x.detach().clone().to(kind).requires_grad_() for x in (hidden, weight, bias)]
        log_probs, entropies = function(*leaves, tokens, temperatures.to(kind))
        weights = torch.linspace(-1, 1, len(hidden), dtype=kind)
        ((log_probs + entropy_weight * entropies) * weights).sum().backward()
        values.append(torch.stack([log_probs, entropies]).double())
        gradients.append([leaf.grad.double() for leaf in leaves if leaf is not None])
    torch.testing.assert_close(*values, rtol=1e-5, atol=1e-5)
    for ours, theirs in zip(*gradients, strict=True):
        assert (ours - theirs).norm() < 1e-5 * theirs.norm()


def test_16_bit_weights_keep_float32_values(inputs):
    """As exact as the rounded weights allow: bfloat16 logits would be off by 1/16 around 10."""
    hidden, weight, _, tokens, temperatures = inputs
    hidden, weight = (5 * hidden).bfloat16(), weight.bfloat16()
    found = score(hidden, weight, None, tokens, temperatures, banned=BANNED, block_bytes=4 * 37 * 30)
    expected = whole(hidden.double(), weight.double(), None, tokens, temperatures.double())
    torch.testing.assert_close(torch.stack(found).double(), torch.stack(expected), rtol=1e-5, atol=1e-4)


def test_a_row_without_sampled_tokens_sends_zeros_back():
    """Every rank takes part in each pass, also if it has nothing to score in it."""
    head = Head(torch.nn.Linear(8, 20, bias=False))
    empty = torch.zeros(0, dtype=torch.long)
    head.asked = Sampled(empty, empty, torch.zeros(0), with_entropy=True)
    hidden = torch.randn(1, 5, 8, requires_grad=True)
    answer = head(hidden)
    assert answer.shape == (1, 0, 2)
    answer.sum().backward()
    assert not hidden.grad.any()
    assert not head.weight.grad.any()


def test_a_frozen_weight_gets_no_gradient(inputs):
    hidden, weight, _, tokens, temperatures = inputs
    hidden.requires_grad_()
    score(hidden, weight, None, tokens, temperatures)[0].sum().backward()
    assert hidden.grad.any()
    assert weight.grad is None
