"""Weights by handle: whoever learns writes them into shared memory once, whoever samples maps them, and only the handle travels.

    trainer, rank 0                              driver             workers
    gather ─▶ cast ─▶ copy into shared memory ── Weights ─────────▶ tensors() ─▶ engine

On the trainer's node the memory is mapped. If the cluster has other nodes, Ray's object store brings a copy to each of them, one
for all of its workers. All of it belongs to the trainer's process and is lost with it: then the run has ended anyway.
"""

from __future__ import annotations

import logging
import math
import mmap
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import ray
from ray.exceptions import ObjectLostError

from envs.errors import InfrastructureError

if TYPE_CHECKING:
    import torch

# Imported late, here and below: torch. It takes seconds, and a worker with a scripted policy starts without it.

log = logging.getLogger(__name__)

BUCKET_BYTES = 1 << 30
_ALIGNMENT = 64
_HEADER = _ALIGNMENT
"""Bytes before the first tensor of a bucket; the first eight of them say which `share` it holds."""


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a tensor lies: its bucket, its first byte in it, and how to read it."""

    bucket: int
    offset: int
    shape: tuple[int, ...]
    dtype: str

    @property
    def nbytes(self) -> int:
        """Its bytes."""
        import torch

        return math.prod(self.shape) * getattr(torch, self.dtype).itemsize


@dataclass(frozen=True, slots=True)
class Bucket:
    """A piece of shared memory: its file on the trainer's node, and its copy for other nodes, if there are any."""

    path: str
    copy: ray.ObjectRef | None


@dataclass(frozen=True)
class Weights:
    """A handle of one version of a policy: names and places of its tensors. It can be read until its `Sender` shares the second
    version after it, or is gone."""

    entries: Mapping[str, Entry]
    buckets: tuple[Bucket, ...]
    number: int
    node: str

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(entry.nbytes for entry in self.entries.values())

    def tensors(self) -> Mapping[str, torch.Tensor]:
        """The tensors by Hugging Face name, in the order of the buckets, in shared memory and to be read only.

        Reading one raises InfrastructureError if the weights are lost, or overwritten by later ones.
        """
        return SharedTensors(self)


class SharedTensors(Mapping[str, "torch.Tensor"]):
    """A bucket is mapped as long as one of its tensors is in use.

    Pickled it is a handle again, for other processes of this node, which need not be Ray's: an engine's on several GPUs.
    """

    def __init__(self, weights: Weights) -> None:
        self._weights = weights
        self._held: tuple[int, Any] = (-1, None)
        self._resender: Sender | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        weights = self._weights
        if weights.node == _node():
            weights = replace(weights, buckets=tuple(Bucket(bucket.path, None) for bucket in weights.buckets))
        else:
            self._resender = Sender()  # kept, for its memory is
            weights = self._resender.share(self.items(), copies=False)
        return SharedTensors, (weights,)

    def __getitem__(self, name: str) -> torch.Tensor:
        import torch

        entry = self._weights.entries[name]
        if self._held[0] != entry.bucket:
            self._held = entry.bucket, _read_only(self._open(self._weights.buckets[entry.bucket]))
        raw = self._held[1][entry.offset : entry.offset + entry.nbytes]
        return raw.view(getattr(torch, entry.dtype)).view(entry.shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights.entries)

    def __len__(self) -> int:
        return len(self._weights.entries)

    def _open(self, bucket: Bucket) -> np.ndarray:
        """The bytes of a bucket."""
        try:
            if bucket.copy is None or _node() == self._weights.node:
                raw = _mapped(bucket.path, os.O_RDONLY, mmap.PROT_READ)
            else:
                raw = ray.get(bucket.copy)
        except (OSError, ObjectLostError) as error:
            raise InfrastructureError(f"the weights are lost with the process that shared them: {error}") from error
        if raw[:8].view(np.int64)[0] != self._weights.number:
            raise InfrastructureError("the weights were overwritten by later ones before they were read")
        return raw


class Sender:
    """Shares weights, again and again, in memory that it keeps: two versions of them, so that one can be read while the next is
    written. New memory would cost several times the copy."""

    def __init__(self) -> None:
        self._memory: tuple[list[_Memory], list[_Memory]] = ([], [])
        self._number = 0

    def share(
        self, tensors: Iterable[tuple[str, torch.Tensor]], dtype: str | None = None, *, copies: bool | None = None
    ) -> Weights:
        """The handle of `tensors` (Hugging Face names), each of which is asked for when the one before has been copied.

        Those of floating-point numbers are cast to `dtype`, as in "bfloat16", unless it is None. `copies` says whether other nodes
        are to read them; None: if the cluster has any.
        """
        import torch

        target = getattr(torch, dtype) if dtype else None
        self._number += 1
        memory = self._memory[self._number % 2]
        entries: dict[str, Entry] = {}
        bucket, used = -1, BUCKET_BYTES
        for name, tensor in tensors:
            wanted = target if target is not None and tensor.is_floating_point() else tensor.dtype
            size = tensor.numel() * wanted.itemsize
            if used + size > BUCKET_BYTES:
                bucket, used = bucket + 1, _HEADER
                if bucket == len(memory) or len(memory[bucket].raw) < used + size:
                    memory[bucket : bucket + 1] = [_Memory(max(BUCKET_BYTES, used + size))]
                memory[bucket].raw[:8].view(np.int64)[0] = self._number
            entries[name] = Entry(bucket, used, tuple(tensor.shape), str(wanted).removeprefix("torch."))
            place = torch.from_numpy(memory[bucket].raw[used : used + size]).view(wanted).view(tensor.shape)
            place.copy_(tensor.detach())
            used += -(-size // _ALIGNMENT) * _ALIGNMENT
            memory[bucket].used = used
        if copies is None:
            copies = sum(node["Alive"] for node in ray.nodes()) > 1
        buckets = tuple(Bucket(one.path, ray.put(one.raw[: one.used]) if copies else None) for one in memory[: bucket + 1])
        return Weights(entries, buckets, self._number, _node())


class _Memory:
    """Shared memory of this process, of which pages that were never written take no room. It ends with the process."""

    def __init__(self, size: int) -> None:
        # Without a name that could be left behind, and, unlike /dev/shm, without a limit of its own, which containers set at 64 MB.
        self._file = os.memfd_create("weights", os.MFD_CLOEXEC)
        os.ftruncate(self._file, size)
        self.path = f"/proc/{os.getpid()}/fd/{self._file}"
        self.raw = _mapped(self.path, os.O_RDWR, mmap.PROT_READ | mmap.PROT_WRITE)
        self.used = 0

    def __del__(self) -> None:
        os.close(self._file)


def warn_of_a_small_store(weights: Weights) -> None:
    """Log a warning if two versions do not fit into the object store of a node that has to hold copies: Ray then uses its disk."""
    smallest = min(node["Resources"].get("object_store_memory", 0) for node in ray.nodes() if node["Alive"])
    if any(bucket.copy for bucket in weights.buckets) and 2 * weights.nbytes > smallest:
        log.warning(
            "two versions of the weights take %.1f GB and the object store of a node has %.1f GB: Ray will write to disk; start it "
            "with a larger --object-store-memory",
            2 * weights.nbytes / 1e9,
            smallest / 1e9,
        )


def _mapped(path: str, flags: int, protection: int) -> np.ndarray:
    file = os.open(path, flags)
    try:
        return np.frombuffer(mmap.mmap(file, 0, prot=protection), np.uint8)
    finally:
        os.close(file)


def _read_only(raw: np.ndarray) -> torch.Tensor:
    import torch

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(raw)


def _node() -> str:
    return ray.get_runtime_context().get_node_id()
