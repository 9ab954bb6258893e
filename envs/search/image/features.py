"""The features of a picture for the embedded image search: its colour layout, and corners that can be matched.

Colour layout is the descriptor of MPEG-7 (ISO/IEC 15938-3, §6.5): the picture is reduced to 8 × 8 average colours, and of each
channel's discrete cosine transform the lowest frequencies are kept. It survives rescaling, compression and small shifts of colour,
and it tells flat pictures apart, which have no corners. Corners are ORB's (Rublee et al., ICCV 2011): binary descriptors of 256
bits.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from envs.pictures import rgb

CORNERS = 200
DESCRIPTOR_BYTES = 32
_SIDE = 320  # corners are detected in a copy of this size: a camera's full resolution does not distinguish them better
_GRID = 8
_KEPT = ((0, 0), (0, 1), (1, 0), (2, 0), (1, 1), (0, 2), (0, 3), (1, 2), (2, 1), (3, 0))
_KEPT_OF_CHANNEL = (10, 6, 6)  # of luma and the two chroma, as the standard's default has them
_MEAN_WEIGHT = 0.5  # the mean colour is what changes with exposure and white balance
_FARTHEST = 64  # bits of 256 in which two descriptors of the same corner may differ
_NO_CHANCE = 8  # so many corners that agree are no coincidence
LAYOUT_SIZE = sum(_KEPT_OF_CHANNEL)

# Left, top, right, bottom as shares of the sides: the parts that a crop may have kept.
WINDOWS = (
    (0.0, 0.0, 1.0, 1.0),
    *((x, y, x + 0.8, y + 0.8) for x in (0.0, 0.1, 0.2) for y in (0.0, 0.1, 0.2)),
    *((x, y, x + 0.6, y + 0.6) for x in (0.0, 0.2, 0.4) for y in (0.0, 0.2, 0.4)),
    *((x, y, x + 0.5, y + 0.5) for x in (0.0, 0.25, 0.5) for y in (0.0, 0.25, 0.5)),
)


@dataclass(frozen=True, slots=True)
class Corners:
    """N corners: `points` (N, 2) float32 in pixels of the copy, `descriptors` (N, 32) uint8, the strongest first."""

    points: np.ndarray
    descriptors: np.ndarray


def colour_layout(image: Image.Image) -> np.ndarray:
    """The descriptor of a whole picture: float32 of shape (LAYOUT_SIZE,)."""
    reduced = rgb(image).resize((_GRID, _GRID), Image.Resampling.BOX)
    return _layouts(np.asarray(reduced)[None])[0]


def window_layouts(image: Image.Image) -> np.ndarray:
    """The descriptors of all `WINDOWS`: float32 of shape (len(WINDOWS), LAYOUT_SIZE)."""
    # 160 cells a side: every window begins and ends at one.
    fine = rgb(image).resize((160, 160), Image.Resampling.BOX)
    cuts = [
        fine.resize((_GRID, _GRID), Image.Resampling.BOX, box=(160 * left, 160 * top, 160 * right, 160 * bottom))
        for left, top, right, bottom in WINDOWS
    ]
    return _layouts(np.stack([np.asarray(cut) for cut in cuts]))


def corners(image: Image.Image) -> Corners:
    """The strongest `CORNERS` corners of a picture; fewer if it has fewer, none if it is flat."""
    grey = rgb(image).convert("L")
    grey.thumbnail((_SIDE, _SIDE), Image.Resampling.BOX)
    # Not thread-safe, and made in microseconds. The low threshold finds corners in pale pictures too.
    orb = cv2.ORB.create(nfeatures=CORNERS, scaleFactor=1.2, nlevels=8, edgeThreshold=12, patchSize=24, fastThreshold=8)
    found, descriptors = orb.detectAndCompute(np.asarray(grey), None)
    if descriptors is None:
        return Corners(np.empty((0, 2), np.float32), np.empty((0, DESCRIPTOR_BYTES), np.uint8))
    strongest = np.argsort([-point.response for point in found], kind="stable")[:CORNERS]
    points = np.array([found[index].pt for index in strongest], np.float32).reshape(-1, 2)
    return Corners(points, descriptors[strongest])


def inliers(query: Corners, other: Corners) -> int:
    """The number of the query's corners that lie in the other picture where one similarity transform puts them (RANSAC).

    0 if so few do that it may be chance.
    """
    if min(len(query.points), len(other.points)) < _NO_CHANCE:
        return 0
    found = cv2.batchDistance(query.descriptors, other.descriptors, cv2.CV_32S, normType=cv2.NORM_HAMMING, K=1)
    distances, nearest = (np.asarray(part, np.intp).ravel() for part in found)
    close = np.flatnonzero(distances <= _FARTHEST)
    close = close[np.argsort(distances[close], kind="stable")]
    # Each corner of the other picture counts once: otherwise a transform that shrinks the query to a point has many inliers.
    matched, first = np.unique(nearest[close], return_index=True)
    if len(matched) < _NO_CHANCE:
        return 0
    points = query.points[close[first]]
    # Only the inliers are needed, so the transform is not refined.
    transform, mask = cv2.estimateAffinePartial2D(
        points, other.points[matched], method=cv2.RANSAC, ransacReprojThreshold=5.0, maxIters=200, refineIters=0
    )
    agreeing = 0 if transform is None else int(mask.sum())
    return agreeing if agreeing >= _NO_CHANCE else 0


def _layouts(grids: np.ndarray) -> np.ndarray:
    """The layouts, of shape (N, LAYOUT_SIZE), of N grids, uint8 of shape (N, 8, 8, 3)."""
    rows = []
    for grid in grids:
        channels = cv2.split(cv2.cvtColor(grid, cv2.COLOR_RGB2YCrCb).astype(np.float32) / 255)
        row: list[float] = []
        for channel, kept in zip(channels, _KEPT_OF_CHANNEL, strict=True):
            transformed = cv2.dct(channel)
            row += [float(transformed[frequency]) for frequency in _KEPT[:kept]]
        rows.append(row)
    layouts = np.array(rows, np.float32)
    starts = np.cumsum((0, *_KEPT_OF_CHANNEL[:-1]))
    layouts[:, starts] *= _MEAN_WEIGHT
    return layouts
