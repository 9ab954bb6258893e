"""The learner's tokens per second and its peak of memory, beside a bare loop on Hugging Face's model and FSDP2, on the same batch.

`python -m benchmarks.gpu.learning SIDE PLACE ROUNDS SECONDS MODEL` is one side.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.figures import Figure
from benchmarks.gpu.part import Job, Results
from benchmarks.gpu.setup import Setup, spoken_ids, write_policy
from benchmarks.gpu.sides import answer, run_side
from benchmarks.learning.one_rank import batch
from learner.batch import Batch
from learner.config import LearnerConfig, Precision

SIDES = {"ours": 0.6, "bare": 1.0}
"""And the share of what time is left that each may take."""
_LR = 1e-6
_GIB = 2**30


def measure(job: Job, which: str) -> Results:
    """Tokens per second of policy steps (bfloat16 passes, float32 weights, AdamW, checkpointing), and peaks of allocated memory.

    The reference updates the same model by the same objective without clipping. It pads its micro-batches, whose tokens it halves
    until they fit, and computes whole logits, as one would write it.
    """
    directory = job.setup.policy(job.place, which)
    if not (directory / "config.json").exists():
        write_policy(directory, getattr(job.setup, which), job.setup, job.setup.wide_layers)
    ours, bare = (run_side(job, __name__, side, share, which) for side, share in SIDES.items())
    of = f"FSDP2 and Hugging Face, micro-batches of {bare['tokens']:,} padded tokens"
    tokens = Figure(f"learn_tokens ({which})", "tokens/s", of)
    for speeds in zip(ours["speeds"], bare["speeds"], strict=False):
        tokens.add(*speeds)
    figures = [tokens]
    if ours["peak"] and bare["peak"]:
        peak = Figure(f"learn_memory ({which})", "GB", "the same loop's")
        peak.add(ours["peak"], bare["peak"])
        figures.append(peak)
    return Results(figures)


def _batch(setup: Setup, directory: Path) -> tuple[Batch, np.ndarray]:
    """Text of random pieces, the second half of each sequence sampled, and an advantage of 1 or -1 for each."""
    rng = np.random.default_rng(0)
    low, high = setup.sequence_tokens
    made = batch(rng.integers(low, high + 1, setup.sequences).tolist(), spoken_ids(directory))
    return made, rng.choice([-1.0, 1.0], setup.sequences).astype(np.float32)


def _timed(step: Callable[[], None], tokens: int, rounds: int, ends: float) -> list[float]:
    """Tokens per second of up to `rounds` steps after a first one, as long as there is time."""
    step()
    speeds: list[float] = []
    while len(speeds) < rounds:
        started = time.monotonic()
        step()
        taken = time.monotonic() - started
        speeds.append(tokens / taken)
        if time.monotonic() + 2 * taken > ends:
            break
    return speeds


def ours(setup: Setup, directory: Path, rounds: int, ends: float) -> dict[str, Any]:
    """Steps of the learner, behind Ray as in a run."""
    import ray
    from transformers import AutoConfig, AutoTokenizer

    from learner.verl.trainer import VerlTrainer
    from rollout.tokens.chat_format import banned_token_ids

    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, configure_logging=False)
    config = LearnerConfig(
        gpus_per_worker=0.0 if setup.device == "cpu" else 1.0,
        precision=Precision(setup.dtype),
        gradient_checkpointing=True,
        micro_batch_tokens=setup.micro_batch_tokens,
    )
    banned = banned_token_ids(AutoTokenizer.from_pretrained(directory), AutoConfig.from_pretrained(directory))
    trainer = VerlTrainer(directory, config, banned_token_ids=banned)
    made, advantages = _batch(setup, directory)
    metrics: dict[str, float] = {}
    speeds = _timed(lambda: metrics.update(trainer.policy_step(made, advantages, _LR)), int(made.lengths_N.sum()), rounds, ends)
    trainer.shutdown()
    return {"speeds": speeds, "peak": metrics.get("perf/max_memory_allocated_gb", 0.0) * _GIB / 1e9}


def bare(setup: Setup, directory: Path, rounds: int, ends: float) -> dict[str, Any]:
    """Steps of a loop without any of it."""
    import torch
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
    from transformers import AutoModelForImageTextToText

    made, advantages = _batch(setup, directory)
    with _alone(setup.device):
        model: Any = AutoModelForImageTextToText.from_pretrained(directory, dtype=torch.float32, attn_implementation="sdpa")
        model.to(setup.device).train()
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        policy = MixedPrecisionPolicy(param_dtype=getattr(torch, setup.dtype), reduce_dtype=torch.float32)
        for layer in (*model.model.language_model.layers, *model.model.visual.blocks):
            fully_shard(layer, mp_policy=policy)
        fully_shard(model, mp_policy=policy)
        optimizer = torch.optim.AdamW(model.parameters(), lr=_LR, fused=True)
        limit = setup.micro_batch_tokens
        while True:
            if setup.device != "cpu":
                torch.cuda.reset_peak_memory_stats()  # an attempt that did not fit has had all there is
            try:
                step = lambda limit=limit: _bare_step(model, optimizer, made, advantages, limit, setup.device)  # noqa: E731
                speeds = _timed(step, int(made.lengths_N.sum()), rounds, ends)
                break
            except torch.OutOfMemoryError:
                if limit <= setup.sequence_tokens[1]:
                    raise
            limit //= 2
            optimizer.zero_grad()
            torch.cuda.empty_cache()
        peak = torch.cuda.max_memory_allocated() / 1e9 if setup.device != "cpu" else 0.0
    return {"speeds": speeds, "peak": peak, "tokens": limit}


def _bare_step(model: Any, optimizer: Any, made: Batch, advantages: np.ndarray, limit: int, device: str) -> None:
    import torch
    import torch.nn.functional as F

    for rows in _micro_batches(made.lengths_N, limit):
        examples = [made.examples_E[row].sequences for row in rows]
        inputs, masks = (
            torch.nn.utils.rnn.pad_sequence([torch.from_numpy(one) for one in arrays], batch_first=True).to(device)
            for arrays in ([one.tokens_S.astype(np.int64) for one in examples], [one.loss_mask_S for one in examples])
        )
        lengths = torch.tensor(made.lengths_N[rows], device=device)
        attended = torch.arange(inputs.shape[1], device=device) < lengths[:, None]
        logits = model(input_ids=inputs, attention_mask=attended.long(), use_cache=False).logits[:, :-1]
        losses = F.cross_entropy(logits.float().flatten(0, 1), inputs[:, 1:].flatten(), reduction="none").view(len(rows), -1)
        weights = masks[:, 1:] * torch.from_numpy(advantages[rows]).to(device)[:, None]
        ((losses * weights).sum() / made.trained_tokens).backward()
    optimizer.step()
    optimizer.zero_grad()
    if device != "cpu":
        torch.cuda.synchronize()


def _micro_batches(lengths: np.ndarray, limit: int) -> Iterator[np.ndarray]:
    """Rows of about equal length together, as many as do not exceed `limit` tokens when they are padded."""
    order, starts = np.argsort(lengths)[::-1], [0]
    for place in range(len(order)):
        if (place + 1 - starts[-1]) * lengths[order[starts[-1]]] > limit and place > starts[-1]:
            starts.append(place)
    for start, end in pairwise([*starts, len(order)]):
        yield order[start:end]


@contextmanager
def _alone(device: str) -> Generator[None]:
    """A process group of this process alone."""
    import torch.distributed as dist

    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="0", RANK="0", WORLD_SIZE="1", LOCAL_RANK="0")
    store = dist.TCPStore("127.0.0.1", 0, 1, is_master=True)
    dist.init_process_group("gloo" if device == "cpu" else "nccl", store=store, rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    side, place, rounds, seconds, which = sys.argv[1:]
    ends = time.monotonic() + float(seconds)
    setup = Setup.read(Path(place))
    answer({"ours": ours, "bare": bare}[side](setup, setup.policy(Path(place), which), int(rounds), ends))
