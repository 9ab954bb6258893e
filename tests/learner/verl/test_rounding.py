"""What an adapter changes reaches samplers in 16 bits, however small it is, and is the same wherever it is rounded."""

import pytest
import torch

from learner.verl.model.adapters import merged
from learner.verl.model.rounding import to_dtype

LAYER = "base_model.model.layer"


@pytest.fixture
def weights():
    """A layer as it was published, in bfloat16, and an adapter that changes most of its numbers by less than half a last digit."""
    torch.manual_seed(0)
    return {
        f"{LAYER}.base_layer.weight": (torch.randn(512, 768) * 0.02).bfloat16(),
        f"{LAYER}.lora_A.default.weight": torch.randn(8, 768) / 8,
        f"{LAYER}.lora_B.default.weight": torch.randn(512, 8) * 3e-6,
    }


def adapted(weights, dtype):
    return dict(merged(weights, weights.__getitem__, {LAYER: 2.0}, dtype))["layer.weight"]


def reached(weights, dtype):
    """Which share of the adapter's change of a layer's outputs is in those of its merged weight."""
    base, down, up = (weight.float() for weight in weights.values())
    inputs = torch.randn(768, 256)
    wanted = 2.0 * (up @ down) @ inputs
    found = (adapted(weights, dtype).float() - base) @ inputs
    return float((found * wanted).sum() / wanted.square().sum())


def test_a_change_below_half_a_last_digit_reaches_the_outputs_in_full(weights):
    base, down, up = (weight.float() for weight in weights.values())
    assert ((base + 2.0 * up @ down).bfloat16() == base).float().mean() > 0.95  # rounding to nearest would lose it
    assert reached(weights, torch.bfloat16) == pytest.approx(1.0, abs=0.1)
    assert torch.equal(adapted(weights, None), adapted(weights, torch.bfloat16))  # the layer's own type


def test_for_a_sampler_in_float32_nothing_is_rounded(weights):
    base, down, up = (weight.float() for weight in weights.values())
    assert torch.equal(adapted(weights, torch.float32), base + 2.0 * (up @ down))


def test_what_no_adapter_changes_stays_and_what_is_no_number_stays_none(weights):
    weights[f"{LAYER}.lora_B.default.weight"][:-1] = 0
    found, base = adapted(weights, torch.bfloat16), weights[f"{LAYER}.base_layer.weight"]
    assert torch.equal(found[:-1], base[:-1])
    assert not torch.equal(found[-1], base[-1])
    of_a_gpu = torch.tensor([[0x7FFFFFFF, 0x7F800000]], dtype=torch.int32).view(torch.float32)
    rounded = to_dtype(of_a_gpu, torch.bfloat16, "any")[0]
    assert (rounded.isnan().tolist(), rounded.isinf().tolist()) == ([True, False], [False, True])


def test_each_layer_has_thresholds_of_its_own_and_always_the_same(weights):
    summed = weights[f"{LAYER}.base_layer.weight"].float() * 1.001
    one, again, other = (to_dtype(summed, torch.bfloat16, name) for name in ("a", "a", "b"))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert ((one.float() - summed).abs() <= summed.abs() * 2**-7).all()
