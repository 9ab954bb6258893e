"""Packed attention equals attention to one sequence after another, with grouped heads, windows, towers and odd lengths."""

import pytest
import torch
import torch.nn.functional as F
from transformers import Gemma3Config, PreTrainedConfig, Qwen2Config, masking_utils

from envs.errors import UsageError
from learner.verl.model import attention, packing, recurrence

LENGTHS = [5, 1, 17, 5, 40, 18, 6, 1]


def alone(query, key, value, causal, window):
    """Attention of one sequence, by a mask."""
    length = query.shape[2]
    mask = torch.ones(length, length, dtype=torch.bool)
    mask = mask.tril() if causal else mask
    mask = mask.triu(1 - window) if window else mask
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, enable_gqa=True, scale=0.3)


@pytest.mark.parametrize(("causal", "window"), [(True, None), (True, 6), (True, 100), (False, None)])
@pytest.mark.parametrize("lengths", [LENGTHS, [9, 9, 9], [3]])
def test_sequences_do_not_see_each_other(causal, window, lengths):
    torch.manual_seed(0)
    tokens = sum(lengths)
    packed = [torch.randn(1, heads, tokens, 8, requires_grad=True) for heads in (4, 2, 2)]
    apart = [x.detach().clone().requires_grad_() for x in packed]
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    module = torch.nn.Module()
    module.is_causal = causal
    tower = {} if causal else {"cu_seq_lens_q": offsets.int()}
    packing.use(offsets)
    found, _ = attention.packed_attention(module, *packed, None, scaling=0.3, sliding_window=window, **tower)
    parts = [alone(*three, causal, window) for three in zip(*(x.split(lengths, dim=2) for x in apart), strict=True)]
    expected = torch.cat(parts, dim=2).transpose(1, 2)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    weights = torch.randn_like(expected)
    for output in found, expected:
        (output * weights).sum().backward()
    for ours, theirs in zip(packed, apart, strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("change", [{"dropout": 0.1}, {"softcap": 50.0}, {"s_aux": torch.zeros(4)}])
def test_attention_that_packed_sequences_do_not_have_is_refused(change):
    packing.use(torch.tensor([0, 4]))
    three = [torch.randn(1, 2, 4, 8) for _ in range(3)]
    with pytest.raises(UsageError, match="train another policy"):
        attention.packed_attention(torch.nn.Module(), *three, None, **change)


def test_a_mask_of_another_form_than_a_causal_window_is_refused():
    window = masking_utils.sliding_window_causal_mask_function(5)
    packed = masking_utils.packed_sequence_mask_function(torch.tensor([[0, 0, 1]]))
    assert attention.window_of(mask_function=masking_utils.and_masks(window, packed)) == 5
    assert attention.window_of(mask_function=masking_utils.causal_mask_function) is None
    seen = masking_utils.or_masks(window, masking_utils.blockwise_overlay(torch.tensor([[0, 0, 1]])))
    chunks = masking_utils.chunked_causal_mask_function(4, torch.zeros(1))
    for mask in seen, chunks, masking_utils.bidirectional_mask_function:
        with pytest.raises(UsageError, match="cannot compute packed: train another policy"):
            attention.window_of(mask_function=mask)


def test_tokens_beyond_the_sequences_are_refused():
    packing.use(torch.tensor([0, 4]))
    with pytest.raises(UsageError, match="attends to 6 tokens, the micro-batch has 4"):
        attention.packed_attention(torch.nn.Module(), *[torch.randn(1, 2, 6, 8) for _ in range(3)], None)


def test_a_state_that_would_run_through_a_part_of_the_tokens_is_refused():
    packing.use(torch.tensor([0, 4]))
    with pytest.raises(UsageError, match=r"given 3 tokens, the micro-batch has 4: .* ulysses_sequence_parallel_size above 1"):
        recurrence.with_borders(torch.nn.Module(), (), {"hidden_states": torch.randn(1, 3, 8)})


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (Qwen2Config(num_hidden_layers=1, layer_types=["linear_attention"]), "layers of linear_attention"),
        (Gemma3Config(), "in both directions"),
        (PreTrainedConfig(), "attention of its own"),
    ],
    ids=["recurrent", "bidirectional", "foreign"],
)
def test_models_that_cannot_be_packed_are_refused(config, reason):
    model = torch.nn.Module()
    model.config = config
    with pytest.raises(UsageError, match=reason):
        attention.install(model)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="a kernel for sequences of various lengths needs a GPU")
@pytest.mark.parametrize("window", [None, 6])
def test_the_kernel_of_gpus_equals_dense_attention(window):
    torch.manual_seed(0)
    three = [torch.randn(1, heads, sum(LENGTHS), 64, device="cuda") for heads in (4, 2, 2)]
    packing.use(torch.tensor([0, *LENGTHS], device="cuda").cumsum(0))
    grads, outputs = [], []
    for kind in torch.float32, torch.bfloat16:
        leaves = [x.detach().to(kind).requires_grad_() for x in three]
        output, _ = attention.packed_attention(torch.nn.Module(), *leaves, None, sliding_window=window)
        output.square().sum().backward()
        outputs.append(output.float())
        grads.append([leaf.grad.float() for leaf in leaves])
    torch.testing.assert_close(*outputs, rtol=0.05, atol=0.02)
    for exact, rounded in zip(*grads, strict=True):
        assert (exact - rounded).norm() < 0.02 * exact.norm()
