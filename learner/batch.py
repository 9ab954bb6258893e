"""Episodes → arrays: what one step of the learner sees. Pure: no verl, no Ray.

Axes, named once: N sequences, T tokens (padded on the right), U different images, P patches of all different images together,
D numbers in a patch, 3 = (time, height, width) of an image's grid in patches. A group of rollouts shares its first image, so each
different image is kept once and sequences refer to it by index.
"""

from __future__ import annotations

import hashlib
import io
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from rollout.types import Episode

Pixels = tuple[np.ndarray, np.ndarray]


@dataclass
class Batch:
    """Sequences with their images.

    `loss_mask_N_T` is True on sampled tokens; `logprobs_N_T` holds the sampler's log-probabilities there (natural logarithm, at the
    sampling temperature) and 0 elsewhere. `images_N` lists each sequence's images in placeholder order, as rows of `grids_U_3`.
    """

    tokens_N_T: np.ndarray
    loss_mask_N_T: np.ndarray
    logprobs_N_T: np.ndarray
    lengths_N: np.ndarray
    temperatures_N: np.ndarray
    rewards_N: np.ndarray
    group_ids_N: list[str]
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
    """Builds batches for one policy; remembers the patches of the latest `cache_size` images by the sha256 of their PNG bytes.

    `processor` is the policy's Hugging Face processor, or its tokenizer for a policy that reads text only.
    """

    def __init__(self, processor: Any, cache_size: int = 512) -> None:
        self.image_processor = getattr(processor, "image_processor", None)
        tokenizer = getattr(processor, "tokenizer", processor)
        self.pad_token_id: int = tokenizer.pad_token_id or 0
        self.image_token_id: int | None = getattr(processor, "image_token_id", None)
        self.cache_size = cache_size
        self._cache: OrderedDict[str, Pixels] = OrderedDict()

    def __call__(self, episodes: Sequence[Episode]) -> Batch:
        """The batch of `episodes`, in their order.

        Raises ValueError for no episodes at all, for one without a prompt (nothing precedes its first token to predict it from),
        and for one whose image placeholders do not match its images.
        """
        if not episodes:
            raise ValueError("a batch needs at least one episode")
        trajectories = [episode.trajectory for episode in episodes]
        shape = len(episodes), max(len(trajectory.token_ids) for trajectory in trajectories)
        tokens_N_T = np.full(shape, self.pad_token_id, dtype=np.int64)
        loss_mask_N_T = np.zeros(shape, dtype=bool)
        logprobs_N_T = np.zeros(shape, dtype=np.float32)
        index_of: dict[str, int] = {}
        pixels_U: list[Pixels] = []
        images_N: list[list[int]] = []
        for row, (episode, trajectory) in enumerate(zip(episodes, trajectories, strict=True)):
            length = len(trajectory.token_ids)
            if trajectory.prompt_length == 0:
                raise ValueError(f"{trajectory.episode_id}: the prompt is empty; the first token cannot be trained on")
            tokens_N_T[row, :length] = trajectory.token_ids
            loss_mask_N_T[row, :length] = trajectory.loss_mask
            logprobs_N_T[row, :length] = trajectory.logprobs
            for name in trajectory.images:
                if name not in index_of:
                    index_of[name] = len(pixels_U)
                    pixels_U.append(self._pixels(episode, name))
            images_N.append([index_of[name] for name in trajectory.images])
            self._check_placeholders(episode, [pixels_U[image][1] for image in images_N[-1]])
        return Batch(
            tokens_N_T=tokens_N_T,
            loss_mask_N_T=loss_mask_N_T,
            logprobs_N_T=logprobs_N_T,
            lengths_N=np.array([len(trajectory.token_ids) for trajectory in trajectories], dtype=np.int64),
            temperatures_N=np.array([trajectory.temperature for trajectory in trajectories], dtype=np.float32),
            rewards_N=np.array([trajectory.reward for trajectory in trajectories], dtype=np.float32),
            group_ids_N=[trajectory.group_id for trajectory in trajectories],
            images_N=images_N,
            pixels_P_D=np.concatenate([pixels for pixels, _ in pixels_U]) if pixels_U else np.zeros((0, 0), dtype=np.float32),
            grids_U_3=np.stack([grid for _, grid in pixels_U]) if pixels_U else np.zeros((0, 3), dtype=np.int64),
        )

    def _pixels(self, episode: Episode, name: str) -> Pixels:
        """Patches (p, D; float32) and grid (3) of one image."""
        episode_id = episode.trajectory.episode_id
        if self.image_processor is None:
            raise ValueError(f"{episode_id}: has an image, but this policy reads text only")
        if name not in episode.images:
            raise ValueError(f"{episode_id}: names image {name} but does not bring it")
        # Keyed by the bytes themselves: a record may name its images as it likes.
        key = hashlib.sha256(episode.images[name]).hexdigest()
        if key not in self._cache:
            with Image.open(io.BytesIO(episode.images[name])) as picture:
                features = self.image_processor(images=[picture.convert("RGB")], return_tensors="np")
            pixels = np.asarray(features["pixel_values"], dtype=np.float32)
            self._cache[key] = pixels, np.asarray(features["image_grid_thw"][0], dtype=np.int64)
            if len(self._cache) > self.cache_size:
                self._cache.popitem(last=False)
        self._cache.move_to_end(key)
        return self._cache[key]

    def _check_placeholders(self, episode: Episode, grids: list[np.ndarray]) -> None:
        """Each image must stand as one run of as many placeholders as the vision tower makes tokens of it."""
        if self.image_processor is None:
            return
        here = np.asarray(episode.trajectory.token_ids) == self.image_token_id
        edges = np.flatnonzero(np.diff(here, prepend=False, append=False))
        found = (edges[1::2] - edges[::2]).tolist()
        expected = [int(grid.prod()) // self.image_processor.merge_size**2 for grid in grids]
        if found != expected:
            raise ValueError(
                f"{episode.trajectory.episode_id}: image placeholders come in runs of {found} tokens, its images need {expected}"
            )


def collate(episodes: Sequence[Episode], processor: Any) -> Batch:
    """`Collator(processor)(episodes)`, for one batch only; a training loop keeps its collator, and with it the cache."""
    return Collator(processor)(episodes)
