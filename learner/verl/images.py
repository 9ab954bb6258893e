"""Images on their way into the model: each different one of a micro-batch goes through the vision tower once.

What differs by family is read off Hugging Face's own classes. The processor says which tokens stand for an image and what the model
is given of it (`rollout.tokens.image_layout`); a model turns that into features in `get_image_features`, and has positions of more
than one dimension if it has a `get_rope_index`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from cachetools import LRUCache
from verl.utils import tensordict_utils as tu

from envs.pictures import decode
from learner.verl.rows import Rows
from rollout.tokens.image_layout import ImageLayout, find_runs

_BLANK = (56, 56)


@dataclass(frozen=True, slots=True)
class Prepared:
    """An image as the model takes it: its inputs by the names of `forward`, and the run of tokens that stands for it."""

    inputs: dict[str, torch.Tensor]
    run: tuple[int, ...]

    def size_bytes(self) -> int:
        """Memory of the inputs."""
        return sum(tensor.nbytes for tensor in self.inputs.values())


class ImageMaker:
    """Makes the model's inputs of images, and remembers the latest in `cache_bytes` of memory.

    `layout` is that of the policy's images, None for a policy that reads text only.
    """

    def __init__(self, layout: ImageLayout | None, cache_bytes: int = 512 << 20) -> None:
        self._layout = layout
        self._cache: LRUCache[str, Prepared] = LRUCache(cache_bytes, getsizeof=Prepared.size_bytes)

    def prepare(self, rows: Rows) -> dict[str, Prepared]:
        """The images of some rows by their sha256 names.

        Raises ValueError if the policy reads text only and there is an image, and if a row's placeholders are not its images'.
        """
        made = {name: self._of(name, rows.images[name]) for names in rows.images_R for name in dict.fromkeys(names)}
        if self._layout is not None:
            of_rows = np.split(rows.tokens_S, rows.lengths_R.cumsum()[:-1])
            for name, tokens, images in zip(rows.names_R, of_rows, rows.images_R, strict=True):
                try:
                    find_runs(tokens.tolist(), [made[image].run for image in images], self._layout.token_id)
                except ValueError as error:
                    raise ValueError(f"{name}: {error}") from error
        return made

    def _of(self, name: str, png: bytes) -> Prepared:
        if self._layout is None:
            raise ValueError("an episode has an image, but this policy reads text only")
        if name in self._cache:
            return self._cache[name]
        image = decode(png)
        prepared = Prepared(self._layout.inputs(image), self._layout.run(image.height, image.width))
        if prepared.size_bytes() <= self._cache.maxsize:
            self._cache[name] = prepared
        return prepared


class ImageTable:
    """Lets the vision tower see each different image of a micro-batch once, however many of its sequences show it.

    verl hands images to the model sequence by sequence. Here a sequence brings no pixels, only the numbers of its images. On the
    way into the model these become the inputs of the different ones, and on the way out of `get_image_features` each image's
    features are copied to all places where it is shown. A micro-batch without images sends a blank one through the tower, for
    nothing, since all ranks have to gather the same parameters. `layout` is None for a policy that reads text only.
    """

    def __init__(self, module: torch.nn.Module, layout: ImageLayout | None) -> None:
        self._layout = layout
        self._images: list[Prepared] = []
        self._shown: list[Prepared] = []
        self._which: list[int] = []
        self._model: Any = seeing_model(module)
        if layout is None or self._model is None:
            return
        layout.check_joined()
        self._blank = layout.blank(*_BLANK)
        self._features = self._model.get_image_features
        self._model.get_image_features = self._spread_features
        module.register_forward_pre_hook(self._enter, with_kwargs=True)
        self._model.get_input_embeddings().register_forward_hook(self._keep_in_step)

    def fill(self, rows: Rows, images: dict[str, Prepared]) -> list[dict[str, torch.Tensor]]:
        """Take in the images of the rows to come; returns what verl is given in place of each row's images."""
        self._images = list(images.values())
        number_of = {name: number for number, name in enumerate(images)}
        return [{"images": torch.tensor([number_of[name] for name in names])} if names else {} for names in rows.images_R]

    def positions(self, rows: Rows, images: dict[str, Prepared]) -> torch.Tensor:
        """Jagged positions: one row for most models; four (text, then time, height and width) for those with M-RoPE."""
        if not hasattr(self._model, "get_rope_index"):
            return torch.nested.nested_tensor([torch.arange(length) for length in rows.lengths_R], layout=torch.jagged)
        of_rows = []
        for tokens, names in zip(torch.from_numpy(rows.tokens_S).split(rows.lengths_R.tolist()), rows.images_R, strict=True):
            grids = torch.cat([images[name].inputs["image_grid_thw"] for name in names]) if names else None
            kinds = (tokens == self._model.config.image_token_id).int()
            spatial, _ = self._model.get_rope_index(tokens[None], mm_token_type_ids=kinds[None], image_grid_thw=grids)
            of_rows.append(torch.cat([torch.arange(len(tokens))[None], spatial[:, 0]]))
        return tu.nested_tensor_from_tensor_list(of_rows)

    def _enter(self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple, dict]:
        numbers = kwargs.pop("images", None)
        self._shown, self._which = [], []
        if numbers is not None:
            different, which = torch.unique(numbers, return_inverse=True)
            self._shown, self._which = [self._images[number] for number in different.tolist()], which.tolist()
            kwargs |= self._joined(self._shown, numbers.device)
        return args, kwargs

    def _joined(self, images: Iterable[Prepared], device: torch.device) -> dict[str, torch.Tensor]:
        assert self._layout is not None
        joined = self._layout.joined([image.inputs for image in images])
        return {name: tensor.to(device) for name, tensor in joined.items()}

    def _spread_features(self, *args: Any, **kwargs: Any) -> Any:
        """`get_image_features` with the rows of each image in all the places where it is shown."""
        output = self._features(*args, **kwargs)
        pooled = output.pooler_output
        if isinstance(pooled, tuple | list):  # one tensor for each image
            output.pooler_output = tuple(pooled[number] for number in self._which)
        else:
            output.pooler_output = self._spread(pooled)
        levels = getattr(output, "deepstack_features", None)
        if levels is not None:
            output.deepstack_features = [self._spread(level) for level in levels]
        return output

    def _spread(self, rows: torch.Tensor) -> torch.Tensor:
        """Rows of the different images, one for each placeholder or one for each tile, to all places."""
        assert self._layout is not None
        along = self._layout.joined_along["pixel_values"]
        tiles = [image.inputs["pixel_values"].shape[along] for image in self._shown]
        placeholders = [image.run.count(self._layout.token_id) for image in self._shown]
        sizes = placeholders if sum(placeholders) == len(rows) else tiles
        parts = rows.split(sizes)
        return torch.cat([parts[number] for number in self._which])

    def _keep_in_step(self, embedding: torch.nn.Module, args: tuple[Any, ...], embedded: torch.Tensor) -> torch.Tensor:
        if self._shown:
            return embedded
        output = self._features(**{name: value.to(embedded.device) for name, value in self._blank.items()}, return_dict=True)
        pooled = output.pooler_output
        made = [*(pooled if isinstance(pooled, tuple | list) else [pooled]), *(getattr(output, "deepstack_features", None) or ())]
        return embedded + sum(0.0 * tensor.mean() for tensor in made).to(embedded.dtype)


def seeing_model(module: torch.nn.Module) -> Any:
    """The innermost part of a model that turns images into features; None if it reads text only."""
    parts = [part for part in module.modules() if hasattr(type(part), "get_image_features")]
    return parts[-1] if parts else None


def vision_parameters(module: torch.nn.Module) -> Iterable[torch.nn.Parameter]:
    """The parameters of a model's vision tower; none if it reads text only."""
    model = seeing_model(module)
    return [] if model is None else model.get_encoder(modality="image").parameters()
