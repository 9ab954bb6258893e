"""Writes trajectories in the background of a worker, so that no episode waits for a disk."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor

from rollout.store import Shard
from rollout.types import Episode


class Recorder:
    """Writes to shards on one thread, in the order in which it is asked. The first failure is final for its shard."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="recorder")
        self._failures: dict[Shard, Exception] = {}

    def add(self, shard: Shard, episode: Episode) -> None:
        """Write an episode, some time soon."""
        self._thread.submit(self._add, shard, episode)

    def _add(self, shard: Shard, episode: Episode) -> None:
        if shard not in self._failures:
            try:
                shard.append(episode)
            except Exception as error:  # of a full disk, or a value of the user's that JSON cannot hold
                self._failures[shard] = error

    async def finish(self, shard: Shard, episode_ids: Collection[str]) -> set[str]:
        """As `Shard.finish`, once everything is written that was added. Raises what went wrong with one of them."""
        return await asyncio.wrap_future(self._thread.submit(self._finish, shard, episode_ids))

    def _finish(self, shard: Shard, episode_ids: Collection[str]) -> set[str]:
        if shard in self._failures:
            raise self._failures.pop(shard)
        return shard.finish(episode_ids)

    async def drain(self) -> None:
        """Return once everything is written that was added."""
        await asyncio.wrap_future(self._thread.submit(lambda: None))
