"""Intervals, pass@k and paired tests of evaluations."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from evaluation.types import Difference, Interval

_Z95 = 1.959963984540054
_RESAMPLES = 4000
_PERMUTATIONS = 4000
_BLOCK = 1 << 22  # random numbers at a time: 4,000 draws of 100,000 items would take gigabytes


def wilson_interval(successes: float, trials: int) -> Interval:
    """The 95 % score interval of a proportion (Wilson, JASA 22, 1927), which stays inside 0…1 and holds near the ends.

    `successes` may be a sum of shares: they vary at most as much as outcomes of the same mean, so that it is wide enough.
    """
    if trials == 0:
        return 0.0, 1.0
    share, z2 = successes / trials, _Z95**2
    centre = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = _Z95 * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials**2)) / (1 + z2 / trials)
    # Rounding leaves the ends of what never, or always, happened a last bit inside.
    return max(0.0, centre - half) if successes else 0.0, min(1.0, centre + half) if successes < trials else 1.0


def bootstrap_interval(item_means_N: Sequence[float] | np.ndarray, sizes_N: Sequence[int] | np.ndarray | None = None) -> Interval:
    """The 95 % percentile interval of a mean over N items, which are drawn again with replacement (Efron, Ann. Statist. 7, 1979).

    Items are the unit, since samples of one item are not independent. Each is weighted by its `sizes_N`, the number of its samples;
    None: alike. The draws are always the same.
    """
    means_N = np.asarray(item_means_N, dtype=np.float64)
    if sizes_N is None or np.ptp(sizes_N) == 0:
        drawn = [means_N[draws].mean(axis=1) for draws in resamples(len(means_N))]
    else:
        sizes = np.asarray(sizes_N)
        drawn = [(means_N * sizes)[draws].sum(axis=1) / sizes[draws].sum(axis=1) for draws in resamples(len(means_N))]
    low, high = np.percentile(np.concatenate(drawn), [2.5, 97.5])
    return float(low), float(high)


def shares_interval(shares_N: Sequence[float] | np.ndarray, sizes_N: Sequence[int] | np.ndarray | None = None) -> Interval:
    """The 95 % interval of the mean of N items' shares, each weighted by its `sizes_N`, the number of its samples; None: alike.

    `bootstrap_interval`; if all shares are equal, which gives that no width, Wilson's with N trials.
    """
    shares = np.asarray(shares_N, dtype=np.float64)
    if np.ptp(shares) == 0:
        return wilson_interval(float(shares.sum()), len(shares))
    return bootstrap_interval(shares, sizes_N)


def resamples(items: int) -> Iterator[np.ndarray]:
    """Numbers of `items` that are drawn with replacement, a row for each of `_RESAMPLES`, some rows at a time: int64 of shape
    (rows, items). They are always the same."""
    rng = np.random.default_rng(0)
    for rows in blocks(_RESAMPLES, items):
        yield rng.integers(items, size=(rows, items))


def blocks(draws: int, items: int) -> list[int]:
    """Parts of so many draws of so many items each that fit into memory."""
    size = max(1, _BLOCK // max(1, items))
    return [min(size, draws - begin) for begin in range(0, draws, size)]


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
    tail = ways = 1
    for count in range(min(only_first, only_second)):
        ways = ways * (discordant - count) // (count + 1)  # C(discordant, count + 1)
        tail += ways
    return min(1.0, 2 * tail / 2**discordant)


def sign_flip_p(differences_N: Sequence[float] | np.ndarray) -> float:
    """The two-sided p-value of the hypothesis that N paired differences are symmetric around 0: Fisher's randomisation test, by
    `_PERMUTATIONS` random choices of signs (Phipson and Smyth, SAGMB 9, 2010, eq. 2: the sample itself counts as one).

    The draws are always the same.
    """
    differences = np.asarray(differences_N, dtype=np.float64)
    differences = differences[differences != 0]
    if not len(differences):
        return 1.0
    rng, limit, reached = np.random.default_rng(0), abs(differences.sum()) - 1e-9, 0
    for rows in blocks(_PERMUTATIONS, len(differences)):
        signs = rng.integers(2, size=(rows, len(differences)), dtype=np.int8) * 2 - 1
        reached += int((np.abs(signs @ differences) >= limit).sum())
    return (reached + 1) / (_PERMUTATIONS + 1)


def discordant_interval(only_first: float, only_second: float, items: int) -> Interval:
    """The 95 % interval of (`only_second` − `only_first`) / `items`, a difference of two proportions of the same items: Wald's with
    one item added to each of the two counts (Bonett and Price, J. Educ. Behav. Stat. 37, 2012, adjusted Wald).

    The bootstrap's has no width if no item differs, and covers too seldom if few do.
    """
    first, second = ((count + 1) / (items + 2) for count in (only_first, only_second))
    half = _Z95 * math.sqrt((first + second - (second - first) ** 2) / (items + 2))
    return max(-1.0, second - first - half), min(1.0, second - first + half)


def paired_difference(
    first_N: Sequence[float] | np.ndarray,
    second_N: Sequence[float] | np.ndarray,
    sizes_N: Sequence[int] | np.ndarray | None = None,
) -> Difference:
    """The mean of `second_N` minus that of `first_N`, values of the same N items, each weighted by its `sizes_N`; None: alike.

    If all items weigh alike and every difference is −1, 0 or 1, the interval is that of `discordant_interval` and `p` McNemar's
    exact one; else they are the bootstrap's over items, which has no width if all differences are equal and then gives way to
    `discordant_interval` of their sums, and that of `sign_flip_p`. Raises ValueError without items.
    """
    first, second = (np.asarray(means, dtype=np.float64) for means in (first_N, second_N))
    if not len(first):
        raise ValueError("there is no item to compare")
    difference = second - first
    sizes = np.ones(len(first)) if sizes_N is None or np.ptp(sizes_N) == 0 else np.asarray(sizes_N)
    value = float(np.average(difference, weights=sizes))
    if np.ptp(sizes) == 0 and np.isin(difference, (-1.0, 0.0, 1.0)).all():
        fewer, more = int((difference < 0).sum()), int((difference > 0).sum())
        return Difference(value, discordant_interval(fewer, more, len(difference)), mcnemar_p(fewer, more))
    lost, gained = float(-difference[difference < 0].sum()), float(difference[difference > 0].sum())
    same = np.ptp(difference) < 1e-9  # 0.6 − 0.4 is not 0.8 − 0.6 to the last bit
    interval = discordant_interval(lost, gained, len(difference)) if same else bootstrap_interval(difference, sizes)
    return Difference(value, interval, sign_flip_p(difference * sizes))
