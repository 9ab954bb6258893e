"""Images to a model's inputs, on another thread: done inline, a burst of large images would hold up every episode."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from cachetools import LRUCache

from rollout.engines.futures import take
from rollout.tokens.images import EncodedImage

_IMAGES_PER_RUN = 16

Done = Callable[["list[Features] | Exception"], None]


@dataclass(frozen=True, slots=True)
class Features:
    """A preprocessed image: the model's inputs (vLLM's item), its run of tokens, and which of them take embeddings (None: all)."""

    item: Any
    run: list[int]
    is_embedding: torch.Tensor | None

    def size_bytes(self) -> int:
        """Memory of the tensors."""
        return sum(tensor.nbytes for tensor in self.item.get_data().values() if isinstance(tensor, torch.Tensor))


class ImagePreprocessor:
    """Runs vLLM's multi-modal `processor` once for each new image and remembers the results, up to `cache_bytes`."""

    def __init__(self, processor: Any, cache_bytes: int) -> None:
        self._processor = processor
        self._image_token = processor.info.get_hf_config().image_token_id
        self._lock = threading.Lock()
        self._cache: LRUCache[str, Features] = LRUCache(cache_bytes, getsizeof=Features.size_bytes)
        self._jobs: queue.SimpleQueue[tuple[Sequence[EncodedImage], Done] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="vllm-images", daemon=True)
        self._thread.start()

    def cached(self, images: Sequence[EncodedImage]) -> list[Features] | None:
        """The features of all images, or None if one has to be made first."""
        with self._lock:
            found = [features for image in images if (features := self._cache.get(image.sha256)) is not None]
        return found if len(found) == len(images) else None

    def submit(self, images: Sequence[EncodedImage], done: Done) -> None:
        """Make the features of `images`, then call `done` with them, or with the exception, on the thread of this object."""
        self._jobs.put((images, done))

    def close(self) -> None:
        """End the thread after what is under way."""
        self._jobs.put(None)

    def _run(self) -> None:
        while True:
            jobs = take(self._jobs, block=True)
            self._make([job for job in jobs if job is not None])
            if None in jobs:
                return

    def _make(self, jobs: Sequence[tuple[Sequence[EncodedImage], Done]]) -> None:
        """New images share a run of the processor: most of its cost is per run. A job is done as soon as its own images are."""
        images = {image.sha256: image for wanted, _ in jobs for image in wanted}
        with self._lock:
            made: dict[str, Features | Exception] = {sha: self._cache[sha] for sha in images if sha in self._cache}
        new = [image for sha, image in images.items() if sha not in made]
        waiting = _settle(jobs, made)
        for start in range(0, len(new), _IMAGES_PER_RUN):
            made |= self._features(new[start : start + _IMAGES_PER_RUN])
            waiting = _settle(waiting, made)

    def _features(self, images: Sequence[EncodedImage]) -> dict[str, Features | Exception]:
        """The features of each image, or the error of just that one: the others of its run are made without it."""
        try:
            made = self._process(images)
        except Exception as error:
            if len(images) == 1:
                return {images[0].sha256: error}
            return {sha: features for image in images for sha, features in self._features([image]).items()}
        self._keep(made)
        return dict(made)

    def _keep(self, made: Mapping[str, Features]) -> None:
        with self._lock:
            for sha, features in made.items():
                with suppress(ValueError):  # larger than the whole cache
                    self._cache[sha] = features

    def _process(self, images: Sequence[EncodedImage]) -> dict[str, Features]:
        items = self._processor.info.parse_mm_data({"image": [image.image for image in images]})
        names = {"image": [image.sha256 for image in images]}
        result = self._processor([self._image_token] * len(images), items, names)
        made = {}
        for image, item, place in zip(images, result["mm_kwargs"]["image"], result["mm_placeholders"]["image"], strict=True):
            for element in item.values():
                element.data = element.data.clone()  # a slice would keep the tensor of the whole run alive
            run = result["prompt_token_ids"][place.offset : place.offset + place.length]
            made[image.sha256] = Features(item, run, place.is_embed)
        return made


def _settle(
    jobs: Sequence[tuple[Sequence[EncodedImage], Done]], made: Mapping[str, Features | Exception]
) -> list[tuple[Sequence[EncodedImage], Done]]:
    """Finish the jobs of which all images are made; returns the others."""
    waiting = []
    for wanted, done in jobs:
        results = [made[image.sha256] for image in wanted if image.sha256 in made]
        if len(results) < len(wanted):
            waiting.append((wanted, done))
            continue
        errors = [result for result in results if isinstance(result, Exception)]
        done(errors[0] if errors else [result for result in results if isinstance(result, Features)])
    return waiting
