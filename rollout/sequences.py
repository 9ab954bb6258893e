"""The tokens of an episode as arrays: what a learner trains on, and all that it needs of an episode beside its outcome."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rollout.types import Episode


@dataclass(frozen=True, slots=True)
class Sequences:
    """The sequences of one episode, one for each of its chains.

    Axes: N sequences, S the tokens of all sequences one after another. `loss_mask_S` is True on sampled tokens; `logprobs_S` holds
    the sampler's log-probabilities there (natural logarithm, at `temperature`) and 0 elsewhere. `images_N` lists the sha256 names
    of each sequence's images in placeholder order, `images` holds them as PNG bytes.
    """

    episode_id: str
    tokens_S: np.ndarray  # int32
    loss_mask_S: np.ndarray  # bool
    logprobs_S: np.ndarray  # float32
    lengths_N: np.ndarray  # int64
    trained_N: np.ndarray  # int64: sampled tokens
    images_N: list[list[str]]
    images: dict[str, bytes]
    temperature: float

    @classmethod
    def of(cls, episode: Episode) -> Sequences:
        """The arrays of an episode.

        Raises ValueError if a chain has no prompt (nothing precedes its first token to predict it from) or names an image that the
        episode does not bring.
        """
        chains = episode.chains
        for chain in chains:
            if chain.prompt_length == 0:
                raise ValueError(f"{chain.episode_id}: the prompt is empty; the first token cannot be trained on")
            if missing := [name for name in chain.images if name not in episode.images]:
                raise ValueError(f"{chain.episode_id}: names image {missing[0]} but does not bring it")
        return cls(
            episode_id=chains[0].episode_id,
            tokens_S=np.array([token for chain in chains for token in chain.token_ids], dtype=np.int32),
            loss_mask_S=np.array([mask for chain in chains for mask in chain.loss_mask], dtype=bool),
            logprobs_S=np.array([logprob for chain in chains for logprob in chain.logprobs], dtype=np.float32),
            lengths_N=np.array([len(chain.token_ids) for chain in chains], dtype=np.int64),
            trained_N=np.array([sum(chain.loss_mask) for chain in chains], dtype=np.int64),
            images_N=[list(chain.images) for chain in chains],
            images=episode.images,
            temperature=chains[0].temperature,
        )

    def __len__(self) -> int:
        return len(self.lengths_N)
