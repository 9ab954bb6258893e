"""What a policy step learned of a rank's rows, as far as it was computed anyway: taken on the way, written in the background."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from envs.errors import InfrastructureError
from learner.verl.rows import Rows
from learner.verl.shares import FILLER
from rollout.learned import Learned, LearnedFiles

ROW = "row"
"""The column with the number of each row, by which a micro-batch's are told apart."""


class Watch:
    """A loss that keeps the log-probabilities which the model gave before the first optimizer step.

    Axes as in `Rows`. `rows` is the number of rows of the first mini-batch: verl goes through all its micro-batches first.
    """

    def __init__(self, loss: Callable[..., Any], rows: int) -> None:
        self._loss, self._left = loss, rows
        self._kept: list[tuple[torch.Tensor, torch.Tensor]] = []

    def __call__(self, model_output: dict[str, Any], data: Any, dp_group: Any = None) -> Any:
        """See `learner.verl.objective.policy.policy_loss`."""
        if self._left > 0:
            numbers = data[ROW]
            self._left -= len(numbers)
            # Nothing waits for the device here: it is asked for them once the step is done.
            self._kept.append((numbers, model_output["log_probs"].values().detach()))
        return self._loss(model_output=model_output, data=data, dp_group=dp_group)

    def log_probs_S(self, rows: Rows, left_S: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Log-probabilities of all tokens, under the token that each is about, and which rows have them, shape (R,).

        Of a row with tokens that are not `left` to be learned from, those were not computed.
        """
        starts_R = np.concatenate([[0], rows.lengths_R.cumsum()])
        found_S, known_R = np.zeros(starts_R[-1], np.float32), np.zeros(len(rows), dtype=bool)
        for numbers, values in self._kept:
            values, first = values.float().cpu().numpy(), 0
            for row in numbers.tolist():
                place = slice(starts_R[row], starts_R[row + 1])
                last = first + int(rows.lengths_R[row]) - 1
                found_S[place][1:] = values[first:last]  # verl files them under the token before
                known_R[row] = (rows.loss_mask_S[place] == left_S[place]).all()
                first = last + 1
        return found_S, known_R


class Recording:
    """Writes the `LearnedFiles` of a rank on a thread of its own; a step waits for the one before."""

    def __init__(self, rank: int, ranks: int) -> None:
        self._rank, self._ranks = rank, ranks
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="learned")
        self._pending: Future[None] | None = None

    def write(
        self,
        files: LearnedFiles,
        groups_R: list[str],
        rows: Rows,
        advantages_S: np.ndarray,
        left_S: np.ndarray,
        log_probs: tuple[np.ndarray, np.ndarray],
    ) -> None:
        """Write what a step learned of some rows, whose groups are `groups_R`; the other arguments are those of `learned`.

        Raises InfrastructureError if the step before could not be written.
        """
        self.finish()
        self._pending = self._thread.submit(self._write, files, groups_R, rows, advantages_S, left_S, log_probs)

    def finish(self) -> None:
        """Wait until the last step is written. Raises InfrastructureError if it could not be."""
        pending, self._pending = self._pending, None
        if pending is not None:
            try:
                pending.result()
            except OSError as error:
                raise InfrastructureError(
                    f"what a step learned could not be written: {error} (rl.record_learned=false does without)"
                ) from error

    def _write(self, files: LearnedFiles, groups_R: list[str], rows: Rows, *computed: Any) -> None:
        real = np.flatnonzero(rows.episodes_R != FILLER)
        found = zip(real, learned(rows, *computed), strict=True)
        files.write([(groups_R[row], one) for row, one in found], self._rank, self._ranks)


def learned(rows: Rows, advantages_S: np.ndarray, left_S: np.ndarray, log_probs: tuple[np.ndarray, np.ndarray]) -> list[Learned]:
    """What was learned of each row that is no filler.

    `left_S` says which of the sampled tokens were learned from: a correction may have rejected some. `log_probs` are those of all
    tokens, shape (S,), and which rows have them, shape (R,).
    """
    log_probs_S, known_R = log_probs
    ends = rows.lengths_R.cumsum()
    found = []
    for row in np.flatnonzero(rows.episodes_R != FILLER):
        place = slice(ends[row] - rows.lengths_R[row], ends[row])
        sampled = rows.loss_mask_S[place]
        left = left_S[place][sampled]
        advantages = np.where(left, advantages_S[place][sampled], np.float32(0))
        found.append(
            Learned(
                rows.names_R[row],
                int(rows.chains_R[row]),
                float(advantages[left].mean()) if left.any() else None,
                advantages if left.any() and np.ptp(advantages) else None,
                log_probs_S[place][sampled] if known_R[row] else None,
            )
        )
    return found
