"""Which rank learns which rows: mini-batches of whole groups, and in each of them as much work for every rank."""

from __future__ import annotations

import numpy as np

from learner.batch import Batch

FILLER = -1
"""Stands for a row without loss that makes all ranks' shares equally long."""

_EVEN = 1.02
"""Largest work of a rank, as a multiple of the mean, up to which groups stay whole."""


def divide(batch: Batch, rows: np.ndarray, ranks: int, mini_batches: int = 1) -> list[np.ndarray]:
    """The share of each rank: the same number of rows for all, mini-batch after mini-batch, of equal length; -1 is filler.

    `rows` are those to be computed. Mini-batches do not depend on the number of ranks: they are runs of whole groups, or of
    sequences if there are fewer groups than mini-batches. Within a mini-batch the ranks' work is balanced (`calculate_workload`,
    `karmarkar_karp`: verl's). Members of a group stay on one rank, so that their common image is encoded once, unless one rank then
    had more than 2 % more work than the mean.
    """
    groups_N = _groups(batch)
    parts = [_balanced(batch, part, ranks, groups_N) for part in mini_batches_of(batch, mini_batches, rows)]
    size = max(1, max(len(share) for part in parts for share in part))
    padded = [[np.pad(share, (0, size - len(share)), constant_values=FILLER) for share in part] for part in parts]
    return [np.concatenate([part[rank] for part in padded]) for rank in range(ranks)]


def mini_batches_of(batch: Batch, count: int, rows: np.ndarray) -> list[np.ndarray]:
    """The rows of each of `count` mini-batches that are among `rows`; the borders depend on the whole batch alone."""
    groups = _units(np.arange(len(batch)), _groups(batch))
    units = groups if len(groups) >= count else [np.array([row]) for row in range(len(batch))]
    borders = np.array_split(np.arange(len(units)), count)
    wanted = set(rows.tolist())
    return [np.array([row for unit in part for row in units[unit] if row in wanted], dtype=np.int64) for part in borders]


def _balanced(batch: Batch, rows: np.ndarray, ranks: int, groups_N: list[str]) -> list[np.ndarray]:
    """The rows of each rank, in order."""
    if ranks == 1 or not len(rows):
        return [rows, *[rows[:0]] * (ranks - 1)]
    work_N = work_of(batch.lengths_N)
    groups = _units(rows, [groups_N[row] for row in rows])
    shares = _partition(groups, work_N, ranks)
    loads = [work_N[share].sum() for share in shares]
    if max(loads) > _EVEN * np.mean(loads):
        shares = _partition([np.array([row]) for row in rows], work_N, ranks)
    return shares


def work_of(lengths: np.ndarray) -> np.ndarray:
    """verl's estimate of the work that sequences of these lengths are: 24,576 T + T² for T tokens."""
    # Imported late: verl settles on a platform while it is imported.
    from verl.utils.seqlen_balancing import calculate_workload

    return np.asarray(calculate_workload(lengths))  # ty: ignore[invalid-argument-type]


def _partition(units: list[np.ndarray], work_N: np.ndarray, ranks: int) -> list[np.ndarray]:
    if len(units) <= ranks:
        return [*units, *[np.zeros(0, dtype=np.int64)] * (ranks - len(units))]
    from verl.utils.seqlen_balancing import karmarkar_karp

    parts = karmarkar_karp([int(work_N[unit].sum()) for unit in units], ranks, equal_size=False)
    return [np.concatenate([units[index] for index in sorted(part)]) for part in parts]


def _groups(batch: Batch) -> list[str]:
    """The group of each row."""
    groups_E = batch.group_ids_E
    return [groups_E[episode] for episode in batch.episodes_N]


def _units(rows: np.ndarray, names: list[str]) -> list[np.ndarray]:
    """The rows of each name, names in the order of their first row."""
    members: dict[str, list[int]] = {}
    for row, name in zip(rows.tolist(), names, strict=True):
        members.setdefault(name, []).append(row)
    return [np.array(member, dtype=np.int64) for member in members.values()]
