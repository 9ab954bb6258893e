"""How the images of a policy stand in its sequences of tokens, and what its model is given of them: as its processor has it.

Families differ. Qwen-VL shows an image as one run of placeholders, InternVL as one between two tokens of its own, Idefics3 and
SmolVLM as a run for each tile behind a token for its row and column. All of this is read off the Hugging Face processor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

from PIL import Image

from envs.errors import UsageError

if TYPE_CHECKING:
    import torch

_SIZE = (56, 84)
_TEXT_INPUTS = {"input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids"}


class ImageLayout:
    """The layout of the images of one policy.

    `processor` is its Hugging Face processor, with an image processor. `token_id` is the placeholder: the model puts a feature of
    the image in its place. Raises UsageError for a processor that does not show an image by placeholders. Safe to call from several
    threads.
    """

    def __init__(self, processor: Any) -> None:
        self._processor = processor
        token = getattr(processor, "image_token", None)
        if not isinstance(token, str):
            raise UsageError(f"the policy's processor, {type(processor).__name__}, names no image_token: it cannot show images")
        self._text = token
        self.token_id: int = processor.tokenizer.convert_tokens_to_ids(token)
        self._layout_of = lru_cache(maxsize=4096)(self._patches)
        self._run_of_layout: dict[Any, tuple[int, ...]] = {}
        merge = getattr(processor.image_processor, "merge_size", None)
        self._patches_per_token = merge**2 if isinstance(merge, int) else 0
        name = type(processor).__name__
        try:
            if self._patches_per_token and self._processed(*_SIZE) != self._grid(*_SIZE):
                self._patches_per_token = 0
            shown = self.placeholders(*_SIZE)
        except ValueError as error:
            raise UsageError(f"the policy's processor, {name}, cannot show an image: {' '.join(str(error).split())}") from error
        if not shown:
            raise UsageError(f"the policy's processor, {name}, shows an image without its {token!r}")

    def run(self, height: int, width: int) -> tuple[int, ...]:
        """The tokens of an image of this size in pixels, in place of the one placeholder that the chat template writes.

        Raises ValueError for a size that the image processor refuses (an extreme aspect ratio).
        """
        if self._patches_per_token:
            return self._grid(height, width)
        # Equal layouts have equal runs, and telling a layout is far cheaper than processing an image.
        layout = self._layout_of(height, width)
        if layout not in self._run_of_layout:
            self._run_of_layout[layout] = self._processed(height, width)
        return self._run_of_layout[layout]

    def placeholders(self, height: int, width: int) -> int:
        """The number of features that the model makes of an image of this size. Raises ValueError as `run` does."""
        return self.run(height, width).count(self.token_id)

    def inputs(self, *images: Image.Image) -> dict[str, torch.Tensor]:
        """The model's inputs of images that one sequence shows, under the names of its `forward`."""
        made = self._processor(text=[self._text * len(images)], images=list(images), return_tensors="pt")
        return {name: value for name, value in made.items() if name not in _TEXT_INPUTS}

    def blank(self, height: int, width: int) -> dict[str, torch.Tensor]:
        """The smallest inputs that a blank image of this size gives: of one tile, if images come in tiles."""
        inputs = self.inputs(Image.new("RGB", (width, height), "white"))
        if self._patches_per_token:
            return inputs
        return {name: value.narrow(self.joined_along[name], 0, 1) for name, value in inputs.items()}

    @cached_property
    def joined_along(self) -> dict[str, int]:
        """The dimension along which each of the model's inputs grows with the images. Raises UsageError if there is none."""
        blank = Image.new("RGB", _SIZE[::-1], "white")
        one, two = self.inputs(blank), self.inputs(blank, blank)
        sizes = {name: zip(one[name].shape, two[name].shape, strict=True) for name in one}
        grows = {name: [dim for dim, (a, b) in enumerate(pairs) if b == 2 * a] for name, pairs in sizes.items()}
        if odd := [name for name, dimensions in grows.items() if not dimensions]:
            raise UsageError(f"the policy's processor gives one {odd[0]} for several images: train another policy")
        return {name: dimensions[0] for name, dimensions in grows.items()}

    def joined(self, inputs: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """The inputs of several images together. What differs in size is padded with zeros at its end, as processors do."""
        import torch  # imported late: it takes seconds
        import torch.nn.functional as F

        joined = {}
        for name, along in self.joined_along.items():
            tensors = [one[name] for one in inputs]
            most = [max(sizes) for sizes in zip(*(tensor.shape for tensor in tensors), strict=True)]
            missing = [[0 if dim == along else size - tensor.shape[dim] for dim, size in enumerate(most)] for tensor in tensors]
            padded = [
                F.pad(tensor, [end for size in reversed(sizes) for end in (0, size)]) if any(sizes) else tensor
                for tensor, sizes in zip(tensors, missing, strict=True)
            ]
            joined[name] = torch.cat(padded, dim=along)
        return joined

    def check_joined(self) -> None:
        """Raise UsageError if the processor makes something else of two images of different sizes than `joined` of each alone."""
        images = Image.new("RGB", (84, 56), "white"), Image.new("RGB", (56, 168), "gray")
        together, joined = self.inputs(*images), self.joined([self.inputs(image) for image in images])
        if odd := [name for name, tensor in together.items() if not _equal(tensor, joined[name])]:
            raise UsageError(
                f"the policy's processor gives another {odd[0]} for several images than for each: train another policy"
            )

    def _patches(self, height: int, width: int) -> Any:
        """What the run of an image depends on: its patches, or its size if the image processor does not count them."""
        count = getattr(self._processor.image_processor, "get_number_of_image_patches", None)
        if count is None:
            return height, width
        try:
            patches = count(height, width, {})
        except ZeroDivisionError as error:
            raise ValueError(f"the image processor refuses an image of {height} x {width} pixels") from error
        return tuple(patches) if isinstance(patches, list | tuple) else patches

    def _grid(self, height: int, width: int) -> tuple[int, ...]:
        return (self.token_id,) * (self._layout_of(height, width) // self._patches_per_token)

    def _processed(self, height: int, width: int) -> tuple[int, ...]:
        """What the processor makes of the placeholder for a blank image of this size."""
        blank = Image.new("RGB", (width, height), "white")
        try:
            made = self._processor(text=[self._text], images=[blank], add_special_tokens=False)
        except Exception as error:  # each library has its own
            raise ValueError(f"the image processor refuses an image of {height} x {width} pixels: {error}") from error
        return tuple(int(token) for token in made["input_ids"][0])


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and bool((one == other).all())


def image_layout(processor: Any) -> ImageLayout | None:
    """The layout of the images of a policy, None if it reads text only. `processor` may be a tokenizer. Raises UsageError."""
    return ImageLayout(processor) if getattr(processor, "image_processor", None) is not None else None


def find_runs(token_ids: Sequence[int], runs: Sequence[Sequence[int]], token_id: Any) -> list[int]:
    """Where the run of each image begins in a sequence, in order.

    Raises ValueError if the placeholders `token_id` of the sequence are not just those of the runs.
    """
    needed = sum(list(run).count(token_id) for run in runs)
    if (present := list(token_ids).count(token_id)) != needed:
        raise ValueError(f"{len(runs)} images take {needed} placeholder tokens, the sequence has {present}")
    starts: list[int] = []
    position = 0
    for number, run in enumerate(map(list, runs)):
        # A run may begin with tokens of its own, which nothing else brings into a sequence.
        while list(token_ids[position : position + len(run)]) != run:
            try:
                position = token_ids.index(run[0], position + 1)
            except ValueError:
                raise ValueError(f"image {number + 1} of {len(runs)} does not stand there as its processor has it") from None
        starts.append(position)
        position += len(run)
    return starts


def join_runs(token_ids: Sequence[int], runs: Sequence[Sequence[int]], token_id: Any) -> list[int]:
    """A sequence with the one placeholder `token_id` in place of each run, as its chat template wrote it. Raises as `find_runs`."""
    joined: list[int] = []
    end = 0
    for start, run in zip(find_runs(token_ids, runs, token_id), runs, strict=True):
        joined += [*token_ids[end:start], token_id]
        end = start + len(run)
    return [*joined, *token_ids[end:]]
