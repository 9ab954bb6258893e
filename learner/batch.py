"""Episodes → arrays: what one step of the learner sees. Pure: no verl, no Ray.

Axes, named once: E episodes, N sequences (one for each chain of an episode: N = E unless a chat template rewrites earlier turns),
T tokens (padded on the right), U different images, P patches of all different images together, D numbers in a patch, 3 = (time,
height, width) of an image's grid in patches. A group of rollouts shares its first image, so each different image is kept once and
sequences refer to it by index.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from cachetools import LRUCache

from envs.pictures import decode
from rollout.types import Episode, Trajectory

Pixels = tuple[np.ndarray, np.ndarray]
"""The patches of one image, shape (p, D; float32), and its grid, shape (3)."""


@dataclass
class Batch:
    """Sequences with their images, and the outcomes of the episodes that they belong to.

    `loss_mask_N_T` is True on sampled tokens; `logprobs_N_T` holds the sampler's log-probabilities there (natural logarithm, at the
    sampling temperature) and 0 elsewhere. `images_N` lists each sequence's images in placeholder order, as rows of `grids_U_3`.
    `episodes_N` is the index of each sequence's episode: `values_E[episodes_N]` gives every sequence its episode's value.
    """

    tokens_N_T: np.ndarray
    loss_mask_N_T: np.ndarray
    logprobs_N_T: np.ndarray
    lengths_N: np.ndarray
    temperatures_N: np.ndarray
    episodes_N: np.ndarray
    rewards_E: np.ndarray
    group_ids_E: list[str]
    images_N: list[list[int]]
    pixels_P_D: np.ndarray
    grids_U_3: np.ndarray

    def __len__(self) -> int:
        return len(self.lengths_N)

    @property
    def trained_tokens(self) -> int:
        """Number of sampled tokens."""
        return int(self.loss_mask_N_T.sum())

    def pixels_of(self, image: int) -> np.ndarray:
        """The patches, shape (p, D), of the image with that index."""
        ends = self.grids_U_3.prod(axis=1).cumsum()
        return self.pixels_P_D[ends[image] - self.grids_U_3[image].prod() : ends[image]]


class Collator:
    """Builds batches for one policy; remembers the patches of the latest images, by their sha256 names, in `cache_bytes` of memory.

    `processor` is the policy's Hugging Face processor, or its tokenizer for a policy that reads text only.
    """

    def __init__(self, processor: Any, cache_bytes: int = 512 << 20) -> None:
        self.image_processor = getattr(processor, "image_processor", None)
        tokenizer = getattr(processor, "tokenizer", processor)
        self.pad_token_id: int = tokenizer.pad_token_id or 0
        self.image_token_id: int | None = getattr(processor, "image_token_id", None)
        self._cache: LRUCache[str, Pixels] = LRUCache(cache_bytes, getsizeof=_size_bytes)

    def __call__(self, episodes: Sequence[Episode]) -> Batch:
        """The batch of `episodes`: their chains, in order.

        Raises ValueError if there are no episodes at all, if one has no prompt (nothing precedes its first token to predict it
        from), and if the image placeholders of one do not match its images.
        """
        if not episodes:
            raise ValueError("a batch needs at least one episode")
        chains = [(index, episode, chain) for index, episode in enumerate(episodes) for chain in episode.chains]
        shape = len(chains), max(len(chain.token_ids) for _, _, chain in chains)
        tokens_N_T = np.full(shape, self.pad_token_id, dtype=np.int64)
        loss_mask_N_T = np.zeros(shape, dtype=bool)
        logprobs_N_T = np.zeros(shape, dtype=np.float32)
        index_of: dict[str, int] = {}
        pixels_U: list[Pixels] = []
        images_N: list[list[int]] = []
        for row, (_, episode, chain) in enumerate(chains):
            length = len(chain.token_ids)
            if chain.prompt_length == 0:
                raise ValueError(f"{chain.episode_id}: the prompt is empty; the first token cannot be trained on")
            tokens_N_T[row, :length] = chain.token_ids
            loss_mask_N_T[row, :length] = chain.loss_mask
            logprobs_N_T[row, :length] = chain.logprobs
            for name in chain.images:
                if name not in index_of:
                    index_of[name] = len(pixels_U)
                    pixels_U.append(self._pixels(episode, name))
            images_N.append([index_of[name] for name in chain.images])
            self._check_placeholders(chain, [pixels_U[image][1] for image in images_N[-1]])
        return Batch(
            tokens_N_T=tokens_N_T,
            loss_mask_N_T=loss_mask_N_T,
            logprobs_N_T=logprobs_N_T,
            lengths_N=np.array([len(chain.token_ids) for _, _, chain in chains], dtype=np.int64),
            temperatures_N=np.array([chain.temperature for _, _, chain in chains], dtype=np.float32),
            episodes_N=np.array([index for index, _, _ in chains], dtype=np.int64),
            rewards_E=np.array([episode.chains[0].reward for episode in episodes], dtype=np.float32),
            group_ids_E=[episode.chains[0].group_id for episode in episodes],
            images_N=images_N,
            pixels_P_D=np.concatenate([pixels for pixels, _ in pixels_U]) if pixels_U else np.zeros((0, 0), dtype=np.float32),
            grids_U_3=np.stack([grid for _, grid in pixels_U]) if pixels_U else np.zeros((0, 3), dtype=np.int64),
        )

    def _pixels(self, episode: Episode, name: str) -> Pixels:
        episode_id = episode.chains[0].episode_id
        if self.image_processor is None:
            raise ValueError(f"{episode_id}: has an image, but this policy reads text only")
        if name not in episode.images:
            raise ValueError(f"{episode_id}: names image {name} but does not bring it")
        if name in self._cache:
            return self._cache[name]
        features = self.image_processor(images=[decode(episode.images[name])], return_tensors="np")
        pixels = np.asarray(features["pixel_values"], dtype=np.float32), np.asarray(features["image_grid_thw"][0], dtype=np.int64)
        if _size_bytes(pixels) <= self._cache.maxsize:
            self._cache[name] = pixels
        return pixels

    def _check_placeholders(self, chain: Trajectory, grids: list[np.ndarray]) -> None:
        """Each image must stand as one run of as many placeholders as the vision tower makes tokens of it."""
        if self.image_processor is None:
            return
        is_placeholder = np.asarray(chain.token_ids) == self.image_token_id
        edges = np.flatnonzero(np.diff(is_placeholder, prepend=False, append=False))
        runs = (edges[1::2] - edges[::2]).tolist()
        expected = [int(grid.prod()) // self.image_processor.merge_size**2 for grid in grids]
        if runs != expected:
            raise ValueError(f"{chain.episode_id}: image placeholders come in runs of {runs} tokens, its images need {expected}")


def _size_bytes(pixels: Pixels) -> int:
    return sum(array.nbytes for array in pixels)
