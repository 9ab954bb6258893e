"""A rank's share of a batch, fetched: tokens and images of its rows as arrays, and what is to be learnt from them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import ray
import torch

from learner.batch import Batch
from learner.verl.shares import FILLER
from rollout.learned import LearnedFiles
from rollout.sequences import Sequences

_FILLER_TOKENS = 2


@dataclass(frozen=True, slots=True)
class PolicyTargets:
    """What a policy step is to do with a batch. M mini-batches: their sampled tokens and sequences over all ranks.

    `recompute_old` asks for the log-probabilities of the policy before the first optimizer step; without it the policy that is
    updated is the one that acted. If advantages can be computed on the ranks only, `outcomes` is what they are computed of.
    Each rank writes to `files` what is learned of its rows; None if nothing is to be written.
    """

    advantages_E: np.ndarray
    tokens_M: np.ndarray
    sequences_M: np.ndarray
    recompute_old: bool
    outcomes: Outcomes | None = None
    files: LearnedFiles | None = None


@dataclass(frozen=True, slots=True)
class Outcomes:
    """The outcomes of all episodes: rewards, groups and numbers of sampled tokens, and the parts of the rewards."""

    rewards_E: np.ndarray
    group_ids_E: list[str]
    tokens_E: np.ndarray
    parts_E: dict[str, np.ndarray]

    @classmethod
    def of(cls, batch: Batch) -> Outcomes:
        """The outcomes of a batch."""
        return cls(batch.rewards_E, batch.group_ids_E, batch.tokens_E, batch.parts_E)


@dataclass(frozen=True, slots=True)
class Rows:
    """Axes: R rows, S the tokens of all rows one after another.

    `episodes_R` is each row's episode in the batch, -1 for filler: two tokens without loss; `chains_R` is which of the episode's
    sequences it is. `images_R` lists the sha256 names of a
    row's images in placeholder order, `images` holds them as PNG bytes. The other arrays are those of `Sequences` and `Batch`.
    """

    episodes_R: np.ndarray
    chains_R: np.ndarray
    names_R: list[str]
    lengths_R: np.ndarray
    temperatures_R: np.ndarray
    images_R: list[list[str]]
    tokens_S: np.ndarray
    loss_mask_S: np.ndarray
    logprobs_S: np.ndarray
    images: dict[str, bytes]

    @classmethod
    def fetch(cls, batch: Batch, share: np.ndarray) -> Rows:
        """The rows of a share, in order; only their episodes are fetched."""
        real = share[share != FILLER]
        sequences_of = _sequences(batch, np.unique(batch.episodes_N[real]))
        pieces: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        names, images_R, images = [], [], {}
        for row in share:
            if row == FILLER:
                zeros = np.zeros(_FILLER_TOKENS)
                pieces.append((zeros.astype(np.int32), zeros.astype(bool), zeros.astype(np.float32)))
                names.append("filler")
                images_R.append([])
                continue
            sequences, chain = sequences_of[batch.episodes_N[row]], batch.chains_N[row]
            end = int(sequences.lengths_N[: chain + 1].sum())
            part = slice(end - int(sequences.lengths_N[chain]), end)
            pieces.append((sequences.tokens_S[part], sequences.loss_mask_S[part], sequences.logprobs_S[part]))
            names.append(sequences.episode_id)
            images_R.append(sequences.images_N[chain])
            images |= sequences.images
        tokens, masks, logprobs = zip(*pieces, strict=True)
        filled = np.maximum(share, 0)
        return cls(
            episodes_R=np.where(share == FILLER, FILLER, batch.episodes_N[filled]),
            chains_R=batch.chains_N[filled],
            names_R=names,
            lengths_R=np.array([len(piece) for piece in tokens], dtype=np.int64),
            temperatures_R=batch.temperatures_N[filled],
            images_R=images_R,
            tokens_S=np.concatenate(tokens).astype(np.int64),
            loss_mask_S=np.concatenate(masks),
            logprobs_S=np.concatenate(logprobs),
            images=images,
        )

    def __len__(self) -> int:
        return len(self.lengths_R)

    @property
    def inside_S(self) -> np.ndarray:
        """Whether a token belongs to a row that is no filler."""
        return np.repeat(self.episodes_R != FILLER, self.lengths_R)

    @property
    def after_first_S(self) -> np.ndarray:
        """Whether a token is not the first of its row: those tokens are predicted."""
        after = np.ones(len(self.tokens_S), dtype=bool)
        after[self.lengths_R.cumsum()[:-1]] = False
        after[0] = False
        return after

    def jagged(self, values_S: np.ndarray) -> torch.Tensor:
        """One value for each token, as a jagged tensor with an entry for each row."""
        return _jagged(values_S, self.lengths_R)

    def jagged_after_first(self, values_S: np.ndarray) -> torch.Tensor:
        """The same without each row's first token, which nothing predicts."""
        return _jagged(values_S[self.after_first_S], self.lengths_R - 1)

    def with_first(self, jagged: torch.Tensor) -> np.ndarray:
        """The inverse of `jagged_after_first`, with 0 for each row's first token."""
        values_S = np.zeros(len(self.tokens_S), dtype=np.float32)
        values_S[self.after_first_S] = jagged.values().float().numpy()
        return values_S

    def padded_after_first(self, values_S: np.ndarray) -> torch.Tensor:
        """The same as an array of rows, with 0 after the end of each."""
        return torch.nested.to_padded_tensor(self.jagged_after_first(values_S), 0)

    def jagged_of_padded(self, values: torch.Tensor) -> torch.Tensor:
        """The inverse of `padded_after_first`."""
        lengths = torch.from_numpy(self.lengths_R - 1)
        inside = torch.arange(values.shape[1]) < lengths[:, None]
        return _jagged(values[inside].numpy(), self.lengths_R - 1)

    def sequence_weights_S(self, sequences: int) -> np.ndarray:
        """The weight of each token in a mean over `sequences` sequences of each one's mean over its sampled tokens."""
        rows_S = np.repeat(np.arange(len(self)), self.lengths_R)
        sampled_R = np.bincount(rows_S, weights=self.loss_mask_S, minlength=len(self))
        return (self.loss_mask_S / np.maximum(sampled_R, 1)[rows_S] / sequences).astype(np.float32)

    def without(self, rejected: torch.Tensor) -> Rows:
        """The rows with fewer tokens that are trained on; `rejected` is an array of rows as of `padded_after_first`."""
        mask_S = self.loss_mask_S.copy()
        mask_S[self.after_first_S] &= ~self.jagged_of_padded(rejected).values().numpy()
        return replace(self, loss_mask_S=mask_S)

    def predictions(self, jagged: torch.Tensor) -> np.ndarray:
        """verl files a prediction under the token before; here under the token that it is about, 0 at those without loss."""
        values = np.zeros(len(self.tokens_S), dtype=np.float32)
        values[1:] = jagged.values().float().numpy()[:-1]
        return np.where(self.loss_mask_S, values, np.float32(0))


def _sequences(batch: Batch, episodes: np.ndarray) -> dict[int, Sequences]:
    held = {int(episode): batch.examples_E[episode].sequences for episode in episodes}
    references = {episode: sequences for episode, sequences in held.items() if isinstance(sequences, ray.ObjectRef)}
    if not references:
        return held  # Ray would start, even to fetch nothing
    return held | dict(zip(references, ray.get(list(references.values())), strict=True))


def _jagged(values: np.ndarray, lengths: np.ndarray) -> torch.Tensor:
    offsets = np.concatenate([[0], lengths.cumsum()])
    return torch.nested.nested_tensor_from_jagged(torch.from_numpy(np.ascontiguousarray(values)), torch.from_numpy(offsets))
