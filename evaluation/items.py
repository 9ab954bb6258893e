"""Figures over items: the samples of one item are not independent of each other, so that items are the unit of every interval."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from evaluation.intervals import shares_interval, wilson_interval
from evaluation.types import Interval
from rollout.types import Trajectory


def item_means(episodes: Sequence[Trajectory], values: Iterable[float]) -> np.ndarray:
    """The mean of `values`, one for each of the `episodes`, over the episodes of each of N items: float64 of shape (N,).

    Items come in the order of their first episodes. An item is a group: a task that is drawn twice is two items.
    """
    places = _items(episodes)
    return np.bincount(places, weights=np.array([*values], dtype=np.float64)) / np.bincount(places)


def item_sizes(episodes: Sequence[Trajectory]) -> np.ndarray:
    """The number of the `episodes` of each of N items, in the order of `item_means`: int64 of shape (N,)."""
    return np.bincount(_items(episodes))


def share_interval(episodes: Sequence[Trajectory], outcomes: Sequence[bool]) -> Interval:
    """The 95 % interval of the share of true `outcomes`: Wilson's with one episode an item, else `shares_interval` over items."""
    if len({episode.group_id for episode in episodes}) == len(episodes):
        return wilson_interval(sum(outcomes), len(outcomes))
    return shares_interval(item_means(episodes, outcomes), item_sizes(episodes))


def _items(episodes: Sequence[Trajectory]) -> np.ndarray:
    """The number of each episode's item, in the order of their first episodes."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(episode.group_id, len(numbers)) for episode in episodes], dtype=np.int64)
