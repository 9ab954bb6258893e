"""Every row is learnt once, mini-batches do not depend on the number of ranks, and all ranks have the same work."""

import numpy as np
import pytest
from verl.utils.seqlen_balancing import calculate_workload

from learner.batch import Batch, Example
from learner.verl.shares import FILLER, divide, mini_batches_of


def batch_of(lengths, group_size):
    examples = [Example(None, (length,), (1,), f"group-{index // group_size}", 0.0, 1.0) for index, length in enumerate(lengths)]
    return Batch.of(examples)


def rows_of(share):
    return [row for row in share.tolist() if row != FILLER]


@pytest.mark.parametrize(
    ("ranks", "mini_batches", "rows"), [(1, 1, 9), (2, 1, 9), (4, 3, 9), (8, 2, 9), (2, 9, 9), (3, 2, 4), (2, 2, 0)]
)
def test_every_row_has_one_place_and_all_shares_are_of_one_size(ranks, mini_batches, rows):
    batch = batch_of(range(5, 14), group_size=3)
    shares = divide(batch, np.arange(rows), ranks, mini_batches)
    assert sorted(row for share in shares for row in rows_of(share)) == list(range(rows))
    assert len({len(share) for share in shares}) == 1
    assert len(shares[0]) % mini_batches == 0
    assert len(shares[0]) >= mini_batches


@pytest.mark.parametrize("count", [1, 2, 4, 10])
def test_mini_batches_do_not_depend_on_the_ranks_nor_on_what_is_computed(count):
    batch = batch_of(range(5, 15), group_size=3)
    whole = mini_batches_of(batch, count, np.arange(10))
    computed = mini_batches_of(batch, count, np.arange(0, 10, 2))
    assert [[row for row in part.tolist() if row % 2 == 0] for part in whole] == [part.tolist() for part in computed]
    for ranks in 1, 2, 3:
        shares = divide(batch, np.arange(10), ranks, count)
        size = len(shares[0]) // count
        for number, part in enumerate(whole):
            dealt = [row for share in shares for row in rows_of(share[number * size : (number + 1) * size])]
            assert sorted(dealt) == part.tolist()


def test_groups_stay_whole_while_the_ranks_are_even():
    """256 groups of 16, lengths as in DeepEyesV2's recipe: no rank has 5 % more work than the mean, and no group is divided."""
    rng = np.random.default_rng(0)
    between = rng.lognormal(0, 0.5, 256).repeat(16)
    lengths = np.clip(7400 * between * rng.lognormal(0, 0.45, 4096) / np.exp((0.5**2 + 0.45**2) / 2), 200, 24576).astype(int)
    batch = batch_of(lengths.tolist(), group_size=16)
    shares = divide(batch, np.arange(4096), 16)
    work = [calculate_workload(batch.lengths_N[rows_of(share)]).sum() for share in shares]
    assert max(work) / np.mean(work) < 1.05
    groups = [{row // 16 for row in rows_of(share)} for share in shares]
    assert sum(len(group) for group in groups) == 256


def test_a_group_is_divided_rather_than_leave_a_rank_idle():
    shares = divide(batch_of([100] * 8, group_size=8), np.arange(8), 2)
    assert [len(rows_of(share)) for share in shares] == [4, 4]
