"""The embedded image search compared with exhaustive matching of the same corners, in which the peer compares each with each.

The gallery has generated boards and textures and, if they are installed, the real flags and photographs that Atlas is built from.
A query is a modified copy of a picture in it.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from statistics import median

import cv2
import numpy as np
from PIL import Image, ImageEnhance

from benchmarks.figures import Figure
from envs.errors import UsageError
from envs.search.image.features import corners
from envs.search.image.index import ImageIndex
from envs.search.types import Picture
from envs.worlds.atlas.sources import FLAGS, countries, flags, photographs, unmistakable
from envs.worlds.microworld.emblems import emblem

PICTURES = 10_000
_SEARCHED, _EXHAUSTIVELY = 80, 8  # queries a round on our side, and those of them on the peer's, which takes seconds for each
_TOP_K = 5
_FARTHEST = 48  # bits of 256 in which two descriptors of the same corner may differ


def measure(rounds: int, advance: Callable[[int, str], None], pictures: int = PICTURES) -> list[Figure]:
    """`image_query_p50`, and the share found among the first five, of generated and of real pictures."""
    query = Figure("image_query_p50", "ms", "each corner compared with each")
    found = Figure("image_top5", "share", "each corner compared with each")
    found_real = Figure("image_top5_real", "share", "each corner compared with each")
    real, mistakable = _real()
    advance(0, f"indexing {pictures:,} pictures" + ("" if real else "; no real ones: apt-get install iso-flags-png-320x240"))
    made = {f"generated {number}": number for number in range(pictures - len(real))}
    peer = _Exhaustive()
    index = ImageIndex.build(peer.seen(_gallery(made, real)))
    clear = [title for title in real if title not in mistakable]
    for number in range(rounds):
        rng = np.random.default_rng([number, 17])
        spent, theirs = [], []
        for figure, titles in ((found, list(made)), (found_real, clear)):
            if not titles:
                continue
            ours_right, peer_right = [], []
            for query_number in range(_SEARCHED):
                title = titles[int(rng.integers(len(titles)))]
                image = CHANGES[query_number % len(CHANGES)](real[title] if title in real else generated(made[title]), rng)
                started = time.perf_counter()
                matches = index.find(image, _TOP_K)
                spent.append(1e3 * (time.perf_counter() - started))
                ours_right.append(title in [match.title for match in matches])
                if query_number < _EXHAUSTIVELY:
                    started = time.perf_counter()
                    peer_right.append(title in peer.find(image, _TOP_K))
                    theirs.append(1e3 * (time.perf_counter() - started))
            figure.add(float(np.mean(ours_right)), float(np.mean(peer_right)))
        query.add(median(spent), median(theirs))
        advance(number + 1, f"a query {query.ours[-1]:.1f} ms, found {found.ours[-1]:.0%}")
    return [query, found, *([found_real] if clear else [])]


def generated(number: int) -> Image.Image:
    """A board of coloured figures, or smooth blobs with some texture."""
    if number % 2:
        return emblem(number)
    rng = np.random.default_rng([5, number])
    smooth = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize((640, 480), Image.Resampling.BICUBIC)
    return Image.fromarray(np.clip(np.asarray(smooth) + rng.normal(0, 12, (480, 640, 1)), 0, 255).astype(np.uint8))


def _cropped(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A crop of four fifths of each side, at a random position."""
    width, height = image.width * 4 // 5, image.height * 4 // 5
    left, top = int(rng.integers(image.width - width + 1)), int(rng.integers(image.height - height + 1))
    return image.crop((left, top, left + width, top + height))


def _resized(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    scale = rng.uniform(0.4, 1.5)
    return image.resize((max(32, round(image.width * scale)), max(32, round(image.height * scale))), Image.Resampling.BILINEAR)


def _encoded(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=int(rng.integers(25, 60)))
    return Image.open(file)


def _recoloured(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    shifted = Image.fromarray(np.clip(np.asarray(image) * rng.uniform(0.85, 1.15, 3), 0, 255).astype(np.uint8))
    return ImageEnhance.Brightness(shifted).enhance(rng.uniform(0.85, 1.15))


CHANGES = (_cropped, _resized, _encoded, _recoloured)


def _real() -> tuple[Mapping[str, Image.Image], set[str]]:
    """The real pictures by title, and those of them that are like another; none if the flags are not installed."""
    try:
        known = flags(Path(FLAGS), countries())
        return {**known, **photographs()}, set(known) - set(unmistakable(known))
    except UsageError:
        return {}, set()


def _gallery(made: Mapping[str, int], real: Mapping[str, Image.Image]) -> Iterator[Picture]:
    for title, number in made.items():
        yield Picture(title, generated(number))
    for title, image in real.items():
        yield Picture(title, image)


class _Exhaustive:
    """Ranks pictures by how many of the query's corners have their nearest corner of the whole gallery in them."""

    def __init__(self) -> None:
        self._titles: list[str] = []
        self._descriptors: list[np.ndarray] = []
        self._matcher = cv2.BFMatcher(cv2.NORM_HAMMING)

    def seen(self, gallery: Iterator[Picture]) -> Iterator[Picture]:
        """Yields the gallery unchanged and stores its corners."""
        for picture in gallery:
            self._titles.append(picture.title)
            self._descriptors.append(corners(picture.image).descriptors)
            yield picture

    def find(self, image: Image.Image, top_k: int) -> list[str]:
        """Titles, the best first."""
        query = corners(image).descriptors
        votes = np.zeros(len(self._titles))
        if len(query):
            best = np.full(len(query), _FARTHEST + 1)
            owner = np.full(len(query), -1)
            for number, descriptors in enumerate(self._descriptors):
                if not len(descriptors):
                    continue
                for match in self._matcher.match(query, descriptors):
                    if match.distance < best[match.queryIdx]:
                        best[match.queryIdx], owner[match.queryIdx] = match.distance, number
            np.add.at(votes, owner[owner >= 0], 1)
        return [self._titles[number] for number in np.argsort(-votes, kind="stable")[:top_k] if votes[number]]
