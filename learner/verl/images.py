"""Images on their way into the model: each different one of a micro-batch goes through the vision tower once."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from verl.models.transformers.qwen2_vl import get_rope_index
from verl.utils import tensordict_utils as tu

from learner.batch import Batch


def positions(processor: Any, batch: Batch, rows: np.ndarray, lengths: np.ndarray) -> torch.Tensor:
    """Jagged positions: one row for text models; for Qwen2.5-VL four (text, then time, height and width)."""
    if processor is None:
        return torch.nested.nested_tensor([torch.arange(length) for length in lengths], layout=torch.jagged)
    rows_of_positions = []
    for row, length in zip(rows, lengths, strict=True):
        tokens = torch.from_numpy(batch.tokens_N_T[row, :length].copy())
        grids = torch.from_numpy(batch.grids_U_3[batch.images_N[row]]) if batch.images_N[row] else None
        spatial = get_rope_index(processor, tokens, image_grid_thw=grids, attention_mask=torch.ones_like(tokens))
        rows_of_positions.append(torch.cat([torch.arange(length)[None], spatial]))
    return tu.nested_tensor_from_tensor_list(rows_of_positions)


class ImageTable:
    """Lets the vision tower see each different image of a micro-batch once, however many of its sequences show it.

    verl hands images to the model sequence by sequence. Here a sequence brings no pixels, only the index of each image as a fourth
    column of its grid; hooks around the tower fetch the pixels, and copy each image's embeddings to all places where it is shown.
    """

    def __init__(self, module: torch.nn.Module) -> None:
        self._batch: Batch | None = None
        self._places: torch.Tensor | None = None
        for name, tower in module.named_modules():
            if name.endswith("visual"):
                tower.register_forward_pre_hook(self._fetch, with_kwargs=True)
                tower.register_forward_hook(self._spread)

    def row(self, batch: Batch, row: int) -> dict[str, torch.Tensor]:
        """What verl is given in place of one sequence's images."""
        self._batch, images = batch, batch.images_N[row]
        if not images:
            return {}
        grids = np.concatenate([batch.grids_U_3[images], np.array(images)[:, None]], axis=1)
        return {"pixel_values": torch.zeros(len(images), 1), "image_grid_thw": torch.from_numpy(grids)}

    def _fetch(self, tower: Any, args: tuple[torch.Tensor], kwargs: dict[str, torch.Tensor]) -> tuple[tuple, dict] | None:
        batch, shown, self._places = self._batch, kwargs["grid_thw"], None
        if batch is None or shown.shape[1] == 3:
            return None  # verl's blank image, with which it keeps the tower in step on ranks whose micro-batch has none
        images, which = torch.unique(shown[:, 3], return_inverse=True)
        grids = torch.from_numpy(batch.grids_U_3[images.cpu().numpy()])
        sizes = grids.prod(dim=1) // tower.spatial_merge_size**2
        spans = torch.arange(int(sizes.sum())).split(sizes.tolist())
        self._places = torch.cat([spans[index] for index in which.tolist()]).to(shown.device)
        pixels = np.concatenate([batch.pixels_of(image) for image in images.tolist()])
        return (torch.from_numpy(pixels).to(args[0]),), {"grid_thw": grids.to(shown.device)}

    def _spread(self, tower: Any, args: tuple[torch.Tensor], output: Any) -> Any:
        if self._places is None:
            return output.pooler_output  # verl 0.9.1 takes the mean of the blank image's output as if it were a tensor
        output.pooler_output = output.pooler_output.index_select(0, self._places)
        return output
