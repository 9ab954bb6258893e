"""Intervals, pass@k and paired tests, against published or computed figures."""

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation import intervals
from evaluation.intervals import (
    bootstrap_interval,
    discordant_interval,
    mcnemar_p,
    paired_difference,
    pass_at_k,
    shares_interval,
    sign_flip_p,
    wilson_interval,
)


@given(correct=st.integers(0, 8), k=st.integers(1, 8))
def test_pass_at_k_is_the_share_of_samples_of_k_that_hold_a_right_one(correct, k):
    outcomes = [True] * correct + [False] * (8 - correct)
    assert pass_at_k(correct, 8, k) == pytest.approx(np.mean([any(chosen) for chosen in combinations(outcomes, k)]))


@pytest.mark.parametrize(("first", "second", "p"), [(0, 0, 1.0), (0, 6, 0.03125), (1, 9, 0.021484375), (5, 5, 1.0)])
def test_mcnemars_exact_p(first, second, p):
    assert mcnemar_p(first, second) == pytest.approx(p)


def test_mcnemars_p_of_a_hundred_thousand_items_equals_the_normal_approximation():
    z = (50_000 - 49_600 - 1) / np.sqrt(99_600)
    assert mcnemar_p(50_000, 49_600) == pytest.approx(math.erfc(z / math.sqrt(2)), rel=0.01)


@pytest.mark.parametrize(("items", "only_first", "only_second"), [(12, 0.05, 0.0), (30, 0.02, 0.1), (60, 0.1, 0.3), (12, 0.0, 0.9)])
def test_the_interval_of_a_paired_difference_covers_it(items, only_first, only_second):
    shares = [only_first, only_second, 1 - only_first - only_second]
    counts = np.random.default_rng(0).multinomial(items, shares, size=2000)
    ends = np.array([discordant_interval(first, second, items) for first, second, _ in counts.tolist()])
    assert ((ends[:, 0] <= only_second - only_first) & (only_second - only_first <= ends[:, 1])).mean() > 0.94


def test_no_difference_between_few_items_is_not_certain():
    same = paired_difference([1, 0, 1], [1, 0, 1])
    assert (same.value, same.p) == (0.0, 1.0)
    assert same.ci95[0] < -0.3 and same.ci95[1] > 0.3
    # n = 100, 15 and 5: (16 − 6) / 102 ± 1.96 · sqrt((22/102 − (10/102)²) / 102)
    assert discordant_interval(5, 15, 100) == pytest.approx((0.009942, 0.186136), abs=1e-6)


def test_draws_come_in_parts_that_fit_into_memory(monkeypatch):
    means = np.random.default_rng(1).integers(6, size=300) / 5
    whole = bootstrap_interval(means), sign_flip_p(means - 0.5)
    monkeypatch.setattr(intervals, "_BLOCK", 4096)
    assert max(intervals.blocks(4000, 300)) * 300 <= 4096 and sum(intervals.blocks(4000, 300)) == 4000
    assert bootstrap_interval(means) == whole[0]
    assert sign_flip_p(means - 0.5) == pytest.approx(whole[1], abs=0.03)


def test_the_bootstrap_covers_the_mean_and_is_repeatable():
    means = np.random.default_rng(0).random(200)
    low, high = bootstrap_interval(means)
    assert low < means.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * means.std() / np.sqrt(200), rel=0.1)
    assert bootstrap_interval(means) == (low, high)


def test_wilsons_interval_against_published_figures():
    assert wilson_interval(8, 10) == pytest.approx([0.4902, 0.9433], abs=1e-4)
    assert wilson_interval(0, 20) == pytest.approx([0.0, 0.1611], abs=1e-4)
    assert wilson_interval(20, 20)[1] == 1.0


@pytest.mark.parametrize("shares", [[1.0] * 3, [0.0] * 12, [0.5] * 4, [0.25]])
def test_items_of_equal_shares_are_not_certain(shares):
    assert bootstrap_interval(shares) == (shares[0], shares[0])
    assert shares_interval(shares) == wilson_interval(sum(shares), len(shares))
    low, high = shares_interval(shares)
    assert low <= shares[0] <= high and high - low > 0.2


def test_equal_differences_between_few_items_are_not_certain():
    found = paired_difference([0.4, 0.6], [0.6, 0.8])
    assert found.value == pytest.approx(0.2) and found.ci95 == pytest.approx(discordant_interval(0, 0.4, 2))
    assert found.ci95[0] < 0.0 < 0.2 < found.ci95[1]


def test_the_interval_of_items_of_unequal_size_is_that_of_their_weighted_mean():
    """One item of 90 samples, always right, and nine of one: the accuracy over samples is 0.95, over items 0.55."""
    shares, sizes = [1.0] + [0.5] * 9, [90] + [1] * 9
    low, high = shares_interval(shares, sizes)
    assert low <= np.average(shares, weights=sizes) <= high and bootstrap_interval(shares)[1] < 0.95
    assert shares_interval(shares, [2] * 10) == bootstrap_interval(shares)
