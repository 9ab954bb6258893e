"""Weights by handle: whoever learns puts them into shared memory once, whoever samples maps them, and only the handle travels.

The shared memory is Ray's object store, which brings them to other nodes as well, once for each node. An object belongs to the
process that put it there and is lost with it; if that was the trainer, the run has ended anyway.

    trainer, rank 0                         driver             worker
    gather ─▶ cast ─▶ bucket ─▶ ray.put ─── Weights ─────────▶ tensors() ─▶ engine
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import ray

if TYPE_CHECKING:
    import torch

# Imported late, here and below: torch. It takes seconds, and a worker with a scripted policy starts without it.

log = logging.getLogger(__name__)

BUCKET_BYTES = 64 << 20
_ALIGNMENT = 64


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a tensor lies: its bucket, its first byte in it, and how to read it."""

    bucket: int
    offset: int
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Weights:
    """A handle of one version of a policy: names and places of its tensors, and references to the buckets that hold them.

    The buckets are freed when the last handle is gone.
    """

    entries: Mapping[str, Entry]
    buckets: tuple[ray.ObjectRef, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        import torch

        return sum(math.prod(entry.shape) * getattr(torch, entry.dtype).itemsize for entry in self.entries.values())

    def tensors(self) -> Mapping[str, torch.Tensor]:
        """The tensors by Hugging Face name, in the order of the buckets, to be read only. They share the object store's memory:
        what is on this node is not copied, what is on another is fetched once for all workers of this node."""
        return _Tensors(self)


class _Tensors(Mapping[str, "torch.Tensor"]):
    """A bucket is held as long as one of its tensors is: whoever goes through them in order holds few at a time."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights
        self._held: tuple[int, Any] = (-1, None)
        if weights.buckets:
            # Begins to fetch them all; those that are here already cost nothing.
            ray.wait(list(weights.buckets), num_returns=len(weights.buckets), timeout=0)

    def __getitem__(self, name: str) -> torch.Tensor:
        import torch

        entry = self._weights.entries[name]
        if self._held[0] != entry.bucket:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
                self._held = entry.bucket, torch.from_numpy(ray.get(self._weights.buckets[entry.bucket]))
        dtype = getattr(torch, entry.dtype)
        size = math.prod(entry.shape) * dtype.itemsize
        return self._held[1][entry.offset : entry.offset + size].view(dtype).view(entry.shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights.entries)

    def __len__(self) -> int:
        return len(self._weights.entries)


class Sender:
    """Puts weights into the object store, again and again: its two buffers of `BUCKET_BYTES` stay.

    While one is copied into the store, the next tensors are collected, and cast, in the other.
    """

    @cached_property
    def _buffers(self) -> list[torch.Tensor]:
        import torch

        # Pinned, so that copies from a GPU go at the full speed of the bus.
        return [torch.empty(BUCKET_BYTES, dtype=torch.uint8, pin_memory=torch.cuda.is_available()) for _ in range(2)]

    def share(self, tensors: Iterable[tuple[str, torch.Tensor]], dtype: str | None = None) -> Weights:
        """The handle of `tensors` (Hugging Face names), each of which is asked for when the one before has been copied.

        Those of floating-point numbers are cast to `dtype`, as in "bfloat16", unless it is None.
        """
        import torch

        target = getattr(torch, dtype) if dtype else None
        entries: dict[str, Entry] = {}
        puts: list[Future[ray.ObjectRef]] = []
        used = 0
        with ThreadPoolExecutor(1) as thread, torch.no_grad():

            def finish() -> None:
                nonlocal used
                if used:
                    puts.append(thread.submit(ray.put, self._buffers[len(puts) % 2].numpy()[:used]))
                    used = 0
                    if len(puts) > 1:
                        puts[-2].result()  # its buffer is the next one

            for name, tensor in tensors:
                wanted = target if target is not None and tensor.is_floating_point() else tensor.dtype
                size = tensor.numel() * wanted.itemsize
                if size > BUCKET_BYTES:
                    # On its own, and not by way of a buffer.
                    finish()
                    alone = tensor.detach().to("cpu", wanted).contiguous().view(-1).view(torch.uint8)
                    entries[name] = Entry(len(puts), 0, tuple(tensor.shape), _name(wanted))
                    puts.append(thread.submit(ray.put, alone.numpy()))
                    puts[-1].result()  # the caller may reuse the tensor's memory
                    continue
                if used + size > BUCKET_BYTES:
                    finish()
                entries[name] = Entry(len(puts), used, tuple(tensor.shape), _name(wanted))
                place = self._buffers[len(puts) % 2][used : used + size].view(wanted).view(tensor.shape)
                place.copy_(tensor if tensor.device.type == "cpu" else tensor.to(wanted))
                used = _aligned(used + size)
            finish()
        return Weights(entries, tuple(put.result() for put in puts))


def share(tensors: Mapping[str, torch.Tensor], dtype: str | None = None) -> Weights:
    """The handle of a whole state dict (Hugging Face names), cast to `dtype` if one is given."""
    return Sender().share(tensors.items(), dtype)


def warn_of_a_small_store(weights: Weights) -> None:
    """Log a warning if two versions, the served and the next one, do not fit into a node's object store: Ray then uses its disk."""
    smallest = min(node["Resources"].get("object_store_memory", 0) for node in ray.nodes() if node["Alive"])
    if 2 * weights.nbytes > smallest:
        log.warning(
            "two versions of the weights take %.1f GB and the object store of a node has %.1f GB: Ray will write to disk; start it "
            "with a larger --object-store-memory",
            2 * weights.nbytes / 1e9,
            smallest / 1e9,
        )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _aligned(offset: int) -> int:
    return -(-offset // _ALIGNMENT) * _ALIGNMENT
