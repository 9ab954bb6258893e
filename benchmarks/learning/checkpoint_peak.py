"""How far a rank's memory rises while it saves a checkpoint, against what the rank holds: its shard of weights and optimizer.

Real processes over gloo hold a language model by FSDP2 with AdamW's moments, and save it to a local directory. The kernel counts
the peak of a process (VmHWM), which is set back to its present size before each save.
"""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from transformers import Qwen2Config, Qwen2ForCausalLM

from benchmarks.figures import Figure
from learner.verl.state.checkpoints import Checkpointer
from learner.verl.state.policy_files import PolicyFiles

RANKS = 2
SIZES = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 8, "vocab_size": 16384}
"""51 million parameters: 410 MB of weights and moments for each of two ranks are far more than what else a save allocates."""


def measure(rounds: int = 3) -> list[Figure]:
    """One value a round: the peak rise of the rank where it is largest, of that rank's shard, in megabytes (10⁶ bytes)."""
    figure = Figure("checkpoint_peak", "MB", "the rank's shard of weights and optimizer")
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as directory:
            rise, shard = max(peaks(RANKS, SIZES, Path(directory)), key=lambda peak: peak[0] / peak[1])
        figure.add(rise / 1e6, shard / 1e6)
    return [figure]


def peaks(ranks: int, sizes: dict[str, int], directory: Path) -> list[tuple[int, int]]:
    """Save a model of these sizes once; returns for each rank the rise of its peak and the bytes of its shard."""
    address = f"file://{directory.absolute()}/rendezvous"
    with multiprocessing.get_context("spawn").Pool(ranks) as pool:
        return pool.starmap(_peak, [(rank, ranks, address, sizes, directory) for rank in range(ranks)], chunksize=1)


def _peak(rank: int, ranks: int, address: str, sizes: dict[str, int], directory: Path) -> tuple[int, int]:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=ranks)
    module = Qwen2ForCausalLM(Qwen2Config.from_dict({"num_attention_heads": 8, "num_key_value_heads": 2, **sizes}))
    if rank == 0:
        module.config.save_pretrained(directory / "base")
    mesh = init_device_mesh("cpu", (ranks,))
    for layer in module.model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(module, mesh=mesh)
    optimizer = torch.optim.AdamW(module.parameters())
    for parameter in module.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    dist.barrier()
    files = PolicyFiles(module, directory / "base", "auto", tied=False)
    checkpointer = Checkpointer(module, optimizer, None, files)
    held = [*module.parameters(), *(value for state in optimizer.state.values() for value in state.values())]
    shard = sum(tensor.to_local().nbytes if isinstance(tensor, DTensor) else tensor.nbytes for tensor in held)
    gc.collect()
    # Memory that the allocator kept from the gradients would hide a part of the rise.
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = _peak_bytes()
    checkpointer.save(str(directory / "checkpoint"), None, lambda: None)
    checkpointer.finish()
    rise = _peak_bytes() - before
    dist.barrier()
    dist.destroy_process_group()
    return rise, shard


def _peak_bytes() -> int:
    status = Path(f"/proc/{os.getpid()}/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:"))
