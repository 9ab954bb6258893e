"""Weights over gloo, from a learner on CPU to verl's servers: the CPU's place in verl's registry of checkpoint engines.

The learner's first rank broadcasts buckets to one process beside each server's worker; the learner's other ranks take part in
gathering each weight and send nothing. verl cuts weights into chunks, puts them together again and hands them to vLLM.
"""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import AsyncGenerator, Sequence
from datetime import timedelta
from typing import Any, cast

import ray
import torch
from torch.distributed import ProcessGroupGloo, TCPStore
from verl.checkpoint_engine.base import CheckpointEngine, CheckpointEngineRegistry, merge_weight_chunks, split_weight_chunks
from verl.utils.net_utils import get_free_port

_ALIGNMENT = 16
_MEETING = timedelta(seconds=120)
_TRANSFER = timedelta(seconds=600)


@CheckpointEngineRegistry.register("gloo")
class GlooCheckpointEngine(CheckpointEngine):
    """Buckets of at most `bucket_size` bytes. Every process has one; `is_master` is true in the one that sends."""

    def __init__(self, bucket_size: int, is_master: bool = False) -> None:
        self._bucket_size, self._is_master = bucket_size, is_master
        self._rank = -1
        self._group: Any = None  # of ProcessGroupGloo, whose stub has no broadcast of a list

    def prepare(self) -> Any:
        """Where the processes of this update will meet: address and port; None from all but the master."""
        if not self._is_master:
            return None
        address = ray.util.get_node_ip_address().strip("[]")
        return address, get_free_port(address)[0]

    @classmethod
    def build_topology(
        cls, actor_wg_world_size: int, rollout_world_size: int, metadata: Sequence[Any]
    ) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
        """Arguments of `init_process_group` for the learner's ranks and for the receivers; rank -1 sends nothing."""

        def common(count: int) -> dict[str, list[Any]]:
            return {"world_size": [1 + receivers] * count, "master": [metadata[0]] * count}

        actors, receivers = actor_wg_world_size, rollout_world_size
        senders = {"rank": [0] + [-1] * (actors - 1)} | common(actors)
        return senders, {"rank": list(range(1, 1 + receivers))} | common(receivers)

    def init_process_group(  # ty: ignore[incompatible-method-override]
        self, rank: int, world_size: int, master: tuple[str, int]
    ) -> None:
        """Meet the others."""
        self._rank = rank
        if rank >= 0:
            store = TCPStore(*master, world_size, rank == 0, _MEETING, wait_for_workers=False)
            self._group = ProcessGroupGloo(store, rank, world_size, _TRANSFER)

    def finalize(self) -> None:
        """Part: the next update may have other receivers."""
        self._group = None

    async def send_weights(self, weights: Any, global_steps: int | None = None) -> None:
        """Broadcast (name, tensor) pairs. Without a group the pairs are only walked through, which gathers them."""
        bucket, metas, used = torch.empty(self._bucket_size, dtype=torch.uint8), [], 0
        async for meta, chunk in split_weight_chunks(weights, self._bucket_size):
            if self._rank < 0:
                continue
            if used + meta.chunk_size > self._bucket_size:
                await self._send(metas, bucket[:used])
                metas, used = [], 0
            meta.offset = used
            bucket[used : used + meta.chunk_size].copy_(cast(torch.Tensor, chunk))
            metas.append(meta)
            used = min(self._bucket_size, -(-(used + meta.chunk_size) // _ALIGNMENT) * _ALIGNMENT)
        if self._rank == 0:
            await self._send(metas, bucket[:used])
            await self._send([], bucket[:0])

    async def receive_weights(  # ty: ignore[incompatible-method-override]
        self, global_steps: int | None = None
    ) -> AsyncGenerator[tuple[str, torch.Tensor]]:
        """The pairs of `send_weights`."""
        async for name, tensor in merge_weight_chunks(cast(Any, self._chunks()), self._bucket_size):
            yield name, tensor

    async def _send(self, metas: list[Any], bucket: torch.Tensor) -> None:
        header = torch.frombuffer(bytearray(pickle.dumps((metas, len(bucket)))), dtype=torch.uint8)
        for tensor in (torch.tensor([len(header)]), header, bucket):
            if len(tensor):
                await self._broadcast(tensor)

    async def _chunks(self) -> AsyncGenerator[tuple[Any, torch.Tensor]]:
        while True:
            length = torch.zeros(1, dtype=torch.int64)
            await self._broadcast(length)
            header = torch.empty(int(length), dtype=torch.uint8)
            await self._broadcast(header)
            metas, size = pickle.loads(header.numpy().tobytes())
            if not metas:
                return
            bucket = torch.empty(size, dtype=torch.uint8)
            await self._broadcast(bucket)
            for meta in metas:
                yield meta, bucket[meta.offset : meta.offset + meta.chunk_size]

    async def _broadcast(self, tensor: torch.Tensor) -> None:
        group = self._group
        await asyncio.to_thread(lambda: group.broadcast([tensor]).wait())
