"""Images on their way into the model: each different one of a micro-batch goes through the vision tower once."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from cachetools import LRUCache
from verl.models.transformers.qwen2_vl import get_rope_index
from verl.utils import tensordict_utils as tu

from envs.pictures import decode
from learner.verl.rows import Rows

Patches = tuple[np.ndarray, np.ndarray]
"""The patches of one image, shape (p, D; float32), and its grid in patches, shape (3): time, height, width."""


class PatchMaker:
    """Makes the vision tower's input of images, and remembers the latest in `cache_bytes` of memory.

    `processor` is the policy's Hugging Face processor; None, or a tokenizer, for a policy that reads text only.
    """

    def __init__(self, processor: Any, cache_bytes: int = 512 << 20) -> None:
        self._processor = processor
        self._image_processor: Any = getattr(processor, "image_processor", None)
        self._cache: LRUCache[str, Patches] = LRUCache(cache_bytes, getsizeof=_size_bytes)

    def patches(self, rows: Rows) -> dict[str, Patches]:
        """The patches of all images of some rows, by their sha256 names.

        Raises ValueError if the policy reads text only and there is an image, and if a row's placeholders do not match its images.
        """
        made = {name: self._of(name, rows.images[name]) for names in rows.images_R for name in dict.fromkeys(names)}
        if self._image_processor is not None:
            self._check_placeholders(rows, made)
        return made

    def _of(self, name: str, png: bytes) -> Patches:
        if self._image_processor is None:
            raise ValueError("an episode has an image, but this policy reads text only")
        if name in self._cache:
            return self._cache[name]
        features = self._image_processor(images=[decode(png)], return_tensors="np")
        made = np.asarray(features["pixel_values"], dtype=np.float32), np.asarray(features["image_grid_thw"][0], dtype=np.int64)
        if _size_bytes(made) <= self._cache.maxsize:
            self._cache[name] = made
        return made

    def _check_placeholders(self, rows: Rows, patches: dict[str, Patches]) -> None:
        """Each image must stand as one run of as many placeholders as the vision tower makes tokens of it."""
        for name, tokens, images in zip(
            rows.names_R, np.split(rows.tokens_S, rows.lengths_R.cumsum()[:-1]), rows.images_R, strict=True
        ):
            edges = np.flatnonzero(np.diff(tokens == self._processor.image_token_id, prepend=False, append=False))
            runs = (edges[1::2] - edges[::2]).tolist()
            expected = [int(patches[image][1].prod()) // self._image_processor.merge_size**2 for image in images]
            if runs != expected:
                raise ValueError(f"{name}: image placeholders come in runs of {runs} tokens, its images need {expected}")


def positions(processor: Any, rows: Rows, patches: dict[str, Patches]) -> torch.Tensor:
    """Jagged positions: one row for text models; for Qwen2.5-VL four (text, then time, height and width)."""
    if processor is None:
        return torch.nested.nested_tensor([torch.arange(length) for length in rows.lengths_R], layout=torch.jagged)
    of_rows = []
    for tokens, images in zip(torch.from_numpy(rows.tokens_S).split(rows.lengths_R.tolist()), rows.images_R, strict=True):
        grids = torch.from_numpy(np.stack([patches[image][1] for image in images])) if images else None
        spatial = get_rope_index(processor, tokens, image_grid_thw=grids, attention_mask=torch.ones_like(tokens))
        of_rows.append(torch.cat([torch.arange(len(tokens))[None], spatial]))
    return tu.nested_tensor_from_tensor_list(of_rows)


class ImageTable:
    """Lets the vision tower see each different image of a micro-batch once, however many of its sequences show it.

    verl hands images to the model sequence by sequence. Here a sequence brings no pixels, only the index of each image as a fourth
    column of its grid; hooks around the tower fetch the pixels, and copy each image's embeddings to all places where it is shown.
    """

    def __init__(self, module: torch.nn.Module) -> None:
        self._patches: list[Patches] = []
        self._places: torch.Tensor | None = None
        self.watch(module)

    def watch(self, module: torch.nn.Module) -> None:
        """Serve another model's vision tower as well."""
        for name, tower in module.named_modules():
            if name.endswith("visual"):
                tower.register_forward_pre_hook(self._fetch, with_kwargs=True)
                tower.register_forward_hook(self._spread)

    def fill(self, rows: Rows, patches: dict[str, Patches]) -> list[dict[str, torch.Tensor]]:
        """Take in the images of the rows to come; returns what verl is given in place of each row's images."""
        self._patches = list(patches.values())
        index_of = {name: index for index, name in enumerate(patches)}
        inputs = []
        for images in rows.images_R:
            if not images:
                inputs.append({})
                continue
            grids = np.array([[*patches[image][1], index_of[image]] for image in images])
            inputs.append({"pixel_values": torch.zeros(len(images), 1), "image_grid_thw": torch.from_numpy(grids)})
        return inputs

    def _fetch(self, tower: Any, args: tuple[torch.Tensor], kwargs: dict[str, torch.Tensor]) -> tuple[tuple, dict] | None:
        shown, self._places = kwargs["grid_thw"], None
        if shown.shape[1] == 3:
            return None  # verl's blank image, with which it keeps the tower in step on ranks whose micro-batch has none
        images, which = torch.unique(shown[:, 3], return_inverse=True)
        chosen = [self._patches[image] for image in images.tolist()]
        grids = torch.from_numpy(np.stack([grid for _, grid in chosen]))
        sizes = grids.prod(dim=1) // tower.spatial_merge_size**2
        spans = torch.arange(int(sizes.sum())).split(sizes.tolist())
        self._places = torch.cat([spans[index] for index in which.tolist()]).to(shown.device)
        pixels = np.concatenate([pixels for pixels, _ in chosen])
        return (torch.from_numpy(pixels).to(args[0]),), {"grid_thw": grids.to(shown.device)}

    def _spread(self, tower: Any, args: tuple[torch.Tensor], output: Any) -> Any:
        if self._places is None:
            return output.pooler_output  # verl 0.9.1 takes the mean of the blank image's output as if it were a tensor
        output.pooler_output = output.pooler_output.index_select(0, self._places)
        return output


def _size_bytes(patches: Patches) -> int:
    return sum(array.nbytes for array in patches)
