"""The image search by meaning: vectors of a CLIP or SigLIP, nearest neighbours by usearch (HNSW, Malkov and Yashunin 2018)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from itertools import batched
from pathlib import Path

import numpy as np
from PIL import Image
from usearch.index import Index

from envs.errors import UsageError
from envs.runtime.atomic import new_directory
from envs.search.image.catalogue import CatalogueWriter, StoredIndex
from envs.search.image.embedder import Embedder
from envs.search.types import Match, Picture

SETTINGS = "embedding.json"
_VECTORS = "vectors.usearch"
_BATCH = 32


class EmbeddingIndex(StoredIndex):
    """Finds pictures with the query's meaning. Made by `build` or `open`; `search` runs outside the event loop's thread."""

    files = (SETTINGS, _VECTORS)

    def __init__(self, directory: Path) -> None:
        settings = json.loads((directory / SETTINGS).read_text(encoding="utf-8"))
        self._embedder = Embedder(Path(settings["model"]))
        super().__init__(directory)
        self._vectors = Index(ndim=settings["dimensions"], metric="cos")
        self._vectors.view(str(directory / _VECTORS))

    @classmethod
    def build(
        cls, pictures: Iterable[Picture], model: Path, directory: Path, on_progress: Callable[[int], None] | None = None
    ) -> EmbeddingIndex:
        """Indexes `pictures` one by one, in a new `directory`, which appears when it is complete.

        Raises UsageError if the model embeds no images, if `directory` exists, or if there is no picture.
        """
        embedder, vectors = Embedder(model), None
        with new_directory(directory) as unfinished:
            with CatalogueWriter(unfinished) as catalogue:
                for batch in batched(pictures, _BATCH):
                    embeddings = embedder.embed([picture.image for picture in batch])
                    if vectors is None:
                        vectors = Index(ndim=embeddings.shape[1], metric="cos")
                    vectors.add(np.arange(catalogue.count, catalogue.count + len(batch)), embeddings)
                    for picture in batch:
                        catalogue.add(picture)
                    if on_progress is not None:
                        on_progress(catalogue.count)
            if vectors is None:
                raise UsageError("there is no picture to index")
            vectors.save(str(unfinished / _VECTORS))
            settings = {"model": str(model.absolute()), "dimensions": vectors.ndim}
            (unfinished / SETTINGS).write_text(json.dumps(settings) + "\n", encoding="utf-8")
        return cls(directory)

    def find(self, image: Image.Image, top_k: int) -> list[Match]:
        neighbours = self._vectors.search(self._embedder.embed([image])[0], top_k)
        return [self._catalogue.match(int(number)) for number in neighbours.keys]
