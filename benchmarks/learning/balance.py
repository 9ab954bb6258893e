"""How evenly the ranks of a learner are loaded: the work of the one that has most, of their mean."""

from __future__ import annotations

import numpy as np

from benchmarks.figures import Figure
from learner.batch import Batch, Example
from learner.verl.shares import FILLER, divide, work_of

GROUPS, MEMBERS, RANKS = 256, 16, 16


def measure() -> list[Figure]:
    """DeepEyesV2's step over 16 ranks: 256 groups of 16, lengths log-normal around 7.4k tokens between groups and within them.

    Work is verl's estimate (`learner.verl.shares.work_of`), in billions.
    """
    rng = np.random.default_rng(0)
    between, within = 0.5, 0.45
    scale = 7400 / np.exp((between**2 + within**2) / 2)
    lengths = scale * rng.lognormal(0, between, GROUPS).repeat(MEMBERS) * rng.lognormal(0, within, GROUPS * MEMBERS)
    clipped = np.clip(lengths, 200, 24_576).astype(int).tolist()
    batch = Batch.of([Example(None, (length,), (1,), str(row // MEMBERS), 0.0, 1.0) for row, length in enumerate(clipped)])
    work = [float(work_of(batch.lengths_N[share[share != FILLER]]).sum()) for share in divide(batch, np.arange(len(batch)), RANKS)]
    figure = Figure("balance", "billion", "the mean work of 16 ranks")
    figure.add(max(work) / 1e9, float(np.mean(work)) / 1e9)
    return [figure]
