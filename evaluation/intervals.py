"""Intervals, pass@k and paired tests of evaluations."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from evaluation.types import Difference, Interval

_Z95 = 1.959963984540054
_RESAMPLES = 4000
_PERMUTATIONS = 4000


def wilson_interval(successes: int, trials: int) -> Interval:
    """The 95 % score interval of a proportion (Wilson, JASA 22, 1927), which stays inside 0…1 and holds near the ends."""
    if trials == 0:
        return 0.0, 1.0
    share, z2 = successes / trials, _Z95**2
    centre = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = _Z95 * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials**2)) / (1 + z2 / trials)
    return max(0.0, centre - half), min(1.0, centre + half)


def bootstrap_interval(item_means_N: Sequence[float] | np.ndarray) -> Interval:
    """The 95 % percentile interval of a mean over N items, which are drawn again with replacement (Efron, Ann. Statist. 7, 1979).

    Items are the unit, since samples of one item are not independent. The draws are always the same.
    """
    means_N = np.asarray(item_means_N, dtype=np.float64)
    draws = np.random.default_rng(0).integers(len(means_N), size=(_RESAMPLES, len(means_N)))
    low, high = np.percentile(means_N[draws].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)


def pass_at_k(correct: int, samples: int, k: int) -> float:
    """The probability that one of k samples is right, unbiased from n ≥ k: 1 − C(n−c, k) / C(n, k) (Chen et al. 2021, §2.1)."""
    if not 1 <= k <= samples:
        raise ValueError(f"k is {k}: it must be between 1 and the {samples} samples of an item")
    return 1.0 - math.comb(samples - correct, k) / math.comb(samples, k)


def mcnemar_p(only_first: int, only_second: int) -> float:
    """McNemar's exact two-sided p-value (1947) of the hypothesis that the items which only one of two policies solved are as likely
    to be the first's as the second's."""
    discordant = only_first + only_second
    if discordant == 0:
        return 1.0
    tail = sum(math.comb(discordant, count) for count in range(min(only_first, only_second) + 1)) / 2**discordant
    return min(1.0, 2 * tail)


def sign_flip_p(differences_N: Sequence[float] | np.ndarray) -> float:
    """The two-sided p-value of the hypothesis that N paired differences are symmetric around 0: Fisher's randomisation test, by
    `_PERMUTATIONS` random choices of signs (Phipson and Smyth, SAGMB 9, 2010, eq. 2: the sample itself counts as one).

    The draws are always the same.
    """
    differences = np.asarray(differences_N, dtype=np.float64)
    differences = differences[differences != 0]
    if not len(differences):
        return 1.0
    signs = np.random.default_rng(0).integers(2, size=(_PERMUTATIONS, len(differences)), dtype=np.int8) * 2 - 1
    reached = np.abs(signs @ differences) >= abs(differences.sum()) - 1e-9
    return float((reached.sum() + 1) / (_PERMUTATIONS + 1))


def paired_difference(first_N: Sequence[float] | np.ndarray, second_N: Sequence[float] | np.ndarray) -> Difference:
    """The mean of `second_N` minus that of `first_N`, values of the same N items, with the bootstrap's interval over items.

    `p` is McNemar's exact one if every difference is −1, 0 or 1, else that of `sign_flip_p`. Raises ValueError without items.
    """
    first, second = (np.asarray(means, dtype=np.float64) for means in (first_N, second_N))
    if not len(first):
        raise ValueError("there is no item to compare")
    difference = second - first
    if np.isin(difference, (-1.0, 0.0, 1.0)).all():
        p = mcnemar_p(int((difference < 0).sum()), int((difference > 0).sum()))
    else:
        p = sign_flip_p(difference)
    return Difference(float(difference.mean()), bootstrap_interval(difference), p)
