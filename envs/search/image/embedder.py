"""Embeddings of pictures, by a CLIP or SigLIP in the Hugging Face layout."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from envs.errors import UsageError
from envs.pictures import rgb


class Embedder:
    """The model of a directory, loaded at its first use, on a GPU if there is one. Thread-safe."""

    def __init__(self, directory: Path) -> None:
        """Raises UsageError if there is no model."""
        if not (directory / "config.json").is_file():
            raise UsageError(f"model={directory}: there is no model; write the directory of a CLIP or SigLIP with a config.json")
        self._directory = directory
        self._loaded: tuple[Any, Any] | None = None
        self._lock = threading.Lock()

    def embed(self, images: Sequence[Image.Image]) -> np.ndarray:
        """Vectors of length 1: float32 of shape (N, D). Raises UsageError if the model embeds no images."""
        import torch  # takes seconds, and only this backend needs it

        with self._lock, torch.inference_mode():
            model, processor = self._load()
            inputs = processor(images=[rgb(image) for image in images], return_tensors="pt").to(model.device)
            features = model.get_image_features(pixel_values=inputs["pixel_values"])
            vectors = features if isinstance(features, torch.Tensor) else features.pooler_output
            return torch.nn.functional.normalize(vectors.float(), dim=-1).cpu().numpy()

    def _load(self) -> tuple[Any, Any]:
        if self._loaded is None:
            import torch
            from transformers import AutoImageProcessor, AutoModel

            try:
                model = AutoModel.from_pretrained(self._directory)
                processor = AutoImageProcessor.from_pretrained(self._directory)
            except (OSError, ValueError) as error:
                reason = " ".join(str(error).split())[:200]
                raise UsageError(
                    f"model={self._directory} cannot be loaded ({reason}): write a CLIP's or SigLIP's directory"
                ) from None
            if not hasattr(model, "get_image_features"):
                raise UsageError(
                    f"model={self._directory} is a {type(model).__name__}, which embeds no images: write a CLIP or SigLIP"
                )
            self._loaded = model.eval().to("cuda" if torch.cuda.is_available() else "cpu"), processor
        return self._loaded
