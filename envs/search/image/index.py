"""The embedded image search, without weights: a shortlist by colour layout and by corners, re-ranked by geometry."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from envs.errors import UsageError
from envs.runtime.atomic import new_directory
from envs.search.image.catalogue import CatalogueWriter, StoredIndex
from envs.search.image.features import (
    DESCRIPTOR_BYTES,
    LAYOUT_SIZE,
    WINDOWS,
    Corners,
    colour_layout,
    corners,
    inliers,
    window_layouts,
)
from envs.search.types import Match, Picture

_TABLES, _KEY_BITS = 6, 16
_BY_LAYOUT, _BY_CORNERS = 20, 15  # how many of each are re-ranked
_LAYOUT_SCALE = 0.5  # the distance of layouts at which two pictures no longer look alike
_COMMON = 1 / 2000  # a bucket with more than this share of all corners tells pictures apart as little as "the" does texts
_FEW = 100


class ImageIndex(StoredIndex):
    """Finds pictures of which the query is a copy, cropped, rescaled, compressed or with other colours. Made by `build` or `open`.

    Thread-safe; `search` runs outside the event loop's thread. The same gallery gives the same index, and the same query the same
    matches.
    """

    files = ("layouts.bin", "points.bin", "descriptors.bin", "tables.npz")

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._layouts = np.fromfile(directory / "layouts.bin", np.float32).reshape(len(self._catalogue) * len(WINDOWS), LAYOUT_SIZE)
        self._squares = np.einsum("wl,wl->w", self._layouts, self._layouts)
        self._points = _mapped(directory / "points.bin", np.float32, 2)
        self._descriptors = _mapped(directory / "descriptors.bin", np.uint8, DESCRIPTOR_BYTES)
        self._ends = np.cumsum([record["corners"] for record in self._catalogue.records], dtype=np.int64)
        with np.load(directory / "tables.npz", allow_pickle=False) as tables:
            self._keys, self._owners = tables["keys"], tables["owners"]

    @classmethod
    def build(
        cls, pictures: Iterable[Picture], directory: Path | None = None, on_progress: Callable[[int], None] | None = None
    ) -> ImageIndex:
        """Indexes `pictures` one by one, in a new `directory`, which appears when it is complete, or outside any directory.

        `on_progress` gets the number of pictures so far. Raises UsageError if `directory` exists or there is no picture.
        """
        if directory is None:
            # Deleted at once, so that a killed process leaves no files: what is mapped lives on.
            with tempfile.TemporaryDirectory(prefix="toolwise-images-") as scratch:
                _write(Path(scratch), pictures, on_progress)
                return cls(Path(scratch))
        with new_directory(directory) as unfinished:
            _write(unfinished, pictures, on_progress)
        return cls(directory)

    def find(self, image: Image.Image, top_k: int) -> list[Match]:
        seen = corners(image)
        distances = self._layout_distances(colour_layout(image))
        votes = self._votes(seen.descriptors)
        # The shortlist: pictures with the most similar colour layout, and pictures that share most corners.
        near = np.argsort(distances, kind="stable")[:_BY_LAYOUT]
        voted = np.argsort(-votes, kind="stable")[:_BY_CORNERS]
        likeness = np.exp(-((distances / _LAYOUT_SCALE) ** 2))
        scores = {int(number): float(likeness[number]) + self._geometry(seen, int(number)) for number in {*near, *voted}}
        best = sorted(scores, key=lambda number: (-scores[number], number))[:top_k]
        return [self._catalogue.match(number) for number in best]

    def _layout_distances(self, layout: np.ndarray) -> np.ndarray:
        """The distance to the nearest window of each picture: (N,), by |a - b|² = |a|² - 2 a·b + |b|²."""
        # Not `@`: the threads of its BLAS wait for more work in a busy loop, and the corners are then compared at half the speed.
        squares = self._squares - 2 * np.einsum("wl,l->w", self._layouts, layout) + layout @ layout
        return np.sqrt(np.maximum(squares.reshape(-1, len(WINDOWS)).min(axis=1), 0))

    def _votes(self, descriptors: np.ndarray) -> np.ndarray:
        """For each picture, how many pairs of a query's corner and one of its own share a bucket: counts of shape (N,).

        Locality-sensitive hashing (Indyk and Motwani, STOC 1998): a bucket is a choice of `_KEY_BITS` bits of the descriptor.
        Common buckets are not counted.
        """
        hits = [np.empty(0, np.int32)]
        most = max(1000, _COMMON * self._keys.shape[1])
        for keys, owners, wanted in zip(self._keys, self._owners, _keys(descriptors), strict=True):
            begins, ends = np.searchsorted(keys, wanted, "left"), np.searchsorted(keys, wanted, "right")
            hits += [owners[begin:end] for begin, end in zip(begins, ends, strict=True) if end - begin <= most]
        return np.bincount(np.concatenate(hits), minlength=len(self._catalogue))

    def _geometry(self, seen: Corners, number: int) -> float:
        """Twice the share of the query's corners that are found in the picture."""
        end = self._ends[number]
        begin = end - self._catalogue.records[number]["corners"]
        agreeing = inliers(seen, Corners(self._points[begin:end], self._descriptors[begin:end]))
        return 2 * agreeing / len(seen.points) if agreeing else 0.0


def _write(directory: Path, pictures: Iterable[Picture], on_progress: Callable[[int], None] | None) -> None:
    """Writes an index; all but the tables is written picture by picture."""
    counts: list[int] = []
    files = [(directory / name).open("wb") for name in ("layouts.bin", "points.bin", "descriptors.bin")]
    layouts, points, descriptors = files
    try:
        with CatalogueWriter(directory) as catalogue:
            for picture in pictures:
                found = corners(picture.image)
                catalogue.add(picture, corners=len(found.points))
                layouts.write(window_layouts(picture.image).tobytes())
                points.write(found.points.tobytes())
                descriptors.write(found.descriptors.tobytes())
                counts.append(len(found.points))
                if on_progress is not None and len(counts) % _FEW == 0:
                    on_progress(len(counts))
    finally:
        for file in files:
            file.close()
    if not counts:
        raise UsageError("there is no picture to index")
    owners = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    keys = _keys(_mapped(directory / "descriptors.bin", np.uint8, DESCRIPTOR_BYTES))
    orders = np.argsort(keys, axis=1, kind="stable")
    np.savez(directory / "tables.npz", keys=np.take_along_axis(keys, orders, 1), owners=owners[orders])
    if on_progress is not None:
        on_progress(len(counts))


def _keys(descriptors: np.ndarray) -> np.ndarray:
    """The buckets of M descriptors: uint16 of shape (_TABLES, M)."""
    bits = np.unpackbits(np.asarray(descriptors).reshape(-1, DESCRIPTOR_BYTES), axis=1)
    chosen = np.random.default_rng(0).permutation(8 * DESCRIPTOR_BYTES)[: _TABLES * _KEY_BITS].reshape(_TABLES, _KEY_BITS)
    return np.stack([np.ascontiguousarray(np.packbits(bits[:, table], axis=1)).view(np.uint16).ravel() for table in chosen])


def _mapped(path: Path, kind: type, width: int) -> np.ndarray:
    if path.stat().st_size == 0:  # a gallery of flat pictures; an empty file cannot be mapped
        return np.empty((0, width), kind)
    return np.asarray(np.memmap(path, kind, "r").reshape(-1, width))  # still mapped, and faster to slice than a memmap
