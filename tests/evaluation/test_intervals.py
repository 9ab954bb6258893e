"""Intervals, pass@k and paired tests, against published or computed figures."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.intervals import bootstrap_interval, mcnemar_p, pass_at_k, wilson_interval


@given(correct=st.integers(0, 8), k=st.integers(1, 8))
def test_pass_at_k_is_the_share_of_samples_of_k_that_hold_a_right_one(correct, k):
    outcomes = [True] * correct + [False] * (8 - correct)
    assert pass_at_k(correct, 8, k) == pytest.approx(np.mean([any(chosen) for chosen in combinations(outcomes, k)]))


@pytest.mark.parametrize(("first", "second", "p"), [(0, 0, 1.0), (0, 6, 0.03125), (1, 9, 0.021484375), (5, 5, 1.0)])
def test_mcnemars_exact_p(first, second, p):
    assert mcnemar_p(first, second) == pytest.approx(p)


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
