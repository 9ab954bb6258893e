"""A rank's part of a checkpoint, by torch's distributed checkpoints (DCP): written in the background, read by any number of ranks.

`training/` holds weights, optimizer, schedule and random states, each rank's shards in a file of its own; `policy/` the weights in
the Hugging Face layout. A directory here is a local path or any URL that fsspec knows.
"""

from __future__ import annotations

import gc
import os
import pickle
import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint._fsspec_filesystem import FsspecReader, FsspecWriter
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, TensorStorageMetadata
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from envs.errors import InfrastructureError, UsageError
from learner.run_files.checkpoints import unreadable

WEIGHT, MOMENT = "model.", "optimizer."
"""What the names of weights and of the optimizer's tensors begin with in `training/`."""

_FULL_BYTES = 64 << 20
SLOWEST_RANK = timedelta(hours=4)
"""How long ranks wait for the one that writes slowest; one that died is noticed at once."""


class Checkpointer:
    """Saves and loads what one rank holds. All ranks construct it, and call each method, together.

    `export(training, policy, rank, ranks)` writes this rank's part of the directory `policy`, and reads the weights back from
    `training`.
    """

    def __init__(
        self, module: torch.nn.Module, optimizer: Optimizer, scheduler: Any, export: Callable[[str, str, int, int], None]
    ) -> None:
        self._module, self._optimizer, self._scheduler, self._export = module, optimizer, scheduler, export
        # Of its own: the ranks talk about a checkpoint while they train.
        self._group = dist.new_group(backend="gloo", timeout=SLOWEST_RANK)
        self._rank, self._ranks = dist.get_rank(), dist.get_world_size()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None

    def save(self, directory: str, random_state: Any, done: Callable[[], None]) -> None:
        """Copy the state to the host's memory and write it to `directory` in the background; waits for the save before.

        Once every rank has written its part, rank 0 calls `done`. Raises what the save before raised.
        """
        self.finish()
        state = self._state() | {f"random.{self._rank}": pickle.dumps(random_state)}
        # A writer's own stager, which dcp.async_save() would take, needs nearly twice the memory.
        copied: Any = DefaultStager(StagingOptions(False, False, False, False)).stage(state)
        self._pending = self._thread.submit(self._write, copied, directory, done)

    def finish(self) -> None:
        """Wait for the save that is under way. Raises InfrastructureError if a rank could not write its part."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def load(self, directory: str) -> Any:
        """Read what `save` wrote, in place; returns this rank's random state, None if no such rank saved.

        Raises UsageError if it cannot be read or is another model's.
        """
        self.finish()
        try:
            return self._read(directory)
        except (OSError, EOFError, ValueError, pickle.UnpicklingError, CheckpointException) as error:
            raise UsageError(unreadable(directory, _line(error, self._rank))) from None  # torch's cannot be pickled, nor be an exit

    def _read(self, directory: str) -> Any:
        reader = reader_of(f"{directory}/training")
        saved = reader.read_metadata().state_dict_metadata
        state: dict[str, Any] = {f"{WEIGHT}{name}": tensor for name, tensor in weights(self._module).items()}
        if missing := [name for name in state if name not in saved]:
            raise UsageError(
                f"{directory} is a checkpoint of another model, it has no {missing[0].removeprefix(WEIGHT)}: write the policy= "
                "that the run began with, or another out="
            )
        parameters = dict(self._module.named_parameters())
        moments: dict[torch.Tensor, dict[str, Any]] = {}
        for name, entry in saved.items():
            if name.startswith(MOMENT):
                parameter_name, _, key = name.removeprefix(MOMENT).rpartition(".")
                parameter = parameters[parameter_name]
                state[name] = self._room(entry, parameter, key)
                moments.setdefault(parameter, {})[key] = name
        others = [name for name in ("schedule", f"random.{self._rank}") if name in saved]
        state |= dict.fromkeys(others, b"")
        dcp.load(state, storage_reader=reader, process_group=self._group)
        self._optimizer.state.clear()
        for parameter, names in moments.items():
            self._optimizer.state[parameter] = {key: self._as_kept(parameter, key, state[name]) for key, name in names.items()}
        if "schedule" in others:
            self._load_schedule(*pickle.loads(state["schedule"]))
        random_state = state.get(f"random.{self._rank}")
        return None if random_state is None else pickle.loads(random_state)

    def _state(self) -> dict[str, Any]:
        """This rank's shards under flat names.

        torch's get_optimizer_state_dict() would take a step to fill an optimizer that has no state yet, and so count one too many;
        and it expects state for each parameter, but one that has had no gradient yet, as in a tower that saw no image, has none.
        """
        state: dict[str, Any] = {f"{WEIGHT}{name}": tensor for name, tensor in weights(self._module).items()}
        for name, parameter in self._module.named_parameters():
            for key, value in self._optimizer.state.get(parameter, {}).items():
                state[f"{MOMENT}{name}.{key}"] = _plain(value)
        rates = [group["lr"] for group in self._optimizer.param_groups]
        state["schedule"] = pickle.dumps((rates, self._scheduler.state_dict() if self._scheduler else None))
        return state

    def _load_schedule(self, rates: list[Any], scheduler: dict[str, Any] | None) -> None:
        for group, rate in zip(self._optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        if self._scheduler is not None and scheduler is not None:
            self._scheduler.load_state_dict(scheduler)

    def _room(self, entry: TensorStorageMetadata | BytesStorageMetadata, parameter: torch.Tensor, key: str) -> Any:
        """What a value of the optimizer's is read into, sharded as its parameter is."""
        if isinstance(entry, BytesStorageMetadata):
            return b""
        dtype = entry.properties.dtype
        if entry.size == parameter.shape and key != "step":
            return torch.empty_like(parameter, dtype=dtype, requires_grad=False)
        on_device = any(group.get("fused") or group.get("capturable") for group in self._optimizer.param_groups)
        return torch.empty(entry.size, dtype=dtype, device=parameter.device if on_device else "cpu")

    def _as_kept(self, parameter: torch.Tensor, key: str, value: Any) -> Any:
        """A value as the optimizer keeps it: what `_plain` made of torchao's moments is rounded to 8 bits again."""
        make = getattr(self._optimizer, "_new_buffer", None)
        if make is None or not isinstance(value, torch.Tensor) or key == "step" or value.shape != parameter.shape:
            return value
        moment = make(parameter, key == "exp_avg")  # the second one has no sign
        _local(moment).copy_(_local(value))
        return moment

    def _write(self, copied: dict[str, Any], directory: str, done: Callable[[], None]) -> None:
        """In the background: write all shards, then the policy of them, then say that the checkpoint is whole."""
        training = f"{directory}/training"
        self._together(directory, lambda: dcp.save(copied, storage_writer=_writer(training), process_group=self._group))
        copied.clear()
        gc.collect()  # torch leaves the copy in a cycle
        self._together(directory, lambda: self._export(training, f"{directory}/policy", self._rank, self._ranks))
        if self._rank == 0:
            done()

    def _together(self, directory: str, task: Callable[[], Any]) -> None:
        """Do a task that writes to `directory` on all ranks. Raises InfrastructureError on each of them if one failed."""
        reason = None
        try:
            task()
        except (Exception, CheckpointException) as error:  # whatever a store raises; torch's is a BaseException
            reason = f"{_line(error, self._rank)}{_if_full(directory)}"
        reasons: list[str | None] = [None] * self._ranks
        try:
            dist.all_gather_object(reasons, reason, group=self._group)
        except RuntimeError as error:  # gloo's, if a rank died
            reasons = [reason or _line(error, self._rank)]
        if failures := [reason for reason in reasons if reason is not None]:
            raise InfrastructureError(f"a checkpoint could not be written: {failures[0]}")


def _plain(value: Any) -> Any:
    """A moment of 8 bits (torchao's) as float32: its blocks would not fit the shards of another number of ranks."""
    if not isinstance(value, torch.Tensor) or type(local := _local(value)) is torch.Tensor:
        return value
    plain = local.dequantize()
    if not isinstance(value, DTensor):
        return plain
    place = value.device_mesh, value.placements
    return DTensor.from_local(plain, *place, run_check=False, shape=value.shape, stride=value.stride())


def _local(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def weights(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """What a checkpoint holds of a module, each tied weight once: parameters and buffers, sharded as they are."""
    buffers, persistent = dict(module.named_buffers()), set(module.state_dict())
    return dict(module.named_parameters()) | {name: tensor for name, tensor in buffers.items() if name in persistent}


def reader_of(directory: str) -> dcp.FileSystemReader:
    """What reads `training/` of a checkpoint."""
    return FsspecReader(directory) if "://" in directory else dcp.FileSystemReader(directory)


def _writer(directory: str) -> dcp.FileSystemWriter:
    # What is no file of the operating system's cannot be synced: torch would sync all its disks instead.
    return FsspecWriter(directory, sync_files=False) if "://" in directory else dcp.FileSystemWriter(directory)


def _if_full(directory: str) -> str:
    """What to say of the disk if nearly nothing is left of it: of that, torch's writer says that a position is not right."""
    if "://" in directory or not os.path.isdir(directory):
        return ""
    free = shutil.disk_usage(directory).free
    return f" (the disk of {directory} is full: {free / 1e6:.1f} MB are left)" if free < _FULL_BYTES else ""


def _line(error: BaseException, rank: int) -> str:
    """A rank's error in one line; of torch's, which quotes the tracebacks of all ranks, the first rank's error."""
    if isinstance(error, CheckpointException):
        rank, (error, _) = next(iter(error.failures.items()))
    return " ".join(f"rank {rank}: {type(error).__name__}: {error}".split())
