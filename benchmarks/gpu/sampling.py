"""Tokens per second of our engine beside those of vLLM's own `LLM.generate`, on the same prompts.

`python -m benchmarks.gpu.sampling SIDE PLACE ROUNDS SECONDS` is one side.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np

from benchmarks.figures import Figure
from benchmarks.gpu.part import Job, Results
from benchmarks.gpu.setup import Setup, spoken_ids
from benchmarks.gpu.sides import answer, run_side

SIDES = {"ours": 0.5, "vllm": 1.0}
"""And the share of what time is left that each may take."""
MOST_ROUNDS = 3
SHARE = 0.8
"""Of the GPU's memory, for either side."""


def measure(job: Job) -> Results:
    """Prompts of random pieces, none of them twice, and as many sampled tokens for each, at temperature 1 with log-probabilities.
    vLLM keeps its defaults otherwise: its engine in a process of its own, and asynchronous scheduling."""
    speeds = [run_side(job, __name__, side, share) for side, share in SIDES.items()]
    figure = Figure("sample_tokens", "tokens/s", "vLLM's LLM.generate")
    for pair in zip(*speeds, strict=False):
        figure.add(*pair)
    return Results([figure])


def _prompts(setup: Setup, directory: Path, number: int) -> list[list[int]]:
    rng = np.random.default_rng(number)
    return rng.integers(0, spoken_ids(directory), (setup.prompts, setup.prompt_tokens)).tolist()


def _timed(sample: Callable[[list[list[int]]], int], setup: Setup, directory: Path, rounds: int, ends: float) -> list[float]:
    """Tokens per second of up to `rounds` rounds after a first one, as long as there is time."""
    speeds: list[float] = []
    for number in range(1 + min(rounds, MOST_ROUNDS)):
        prompts = _prompts(setup, directory, number)
        started = time.monotonic()
        tokens = sample(prompts)
        taken = time.monotonic() - started
        if number:
            speeds.append(tokens / taken)
            if time.monotonic() + 2 * taken > ends:
                break
    return speeds


def ours(setup: Setup, directory: Path) -> tuple[Callable[[list[list[int]]], int], Callable[[], None]]:
    """Our engine: a function that samples and one that closes it."""
    from rollout.config import EngineConfig, RolloutConfig
    from rollout.engines.vllm import VllmPolicy

    config = EngineConfig(
        policy=str(directory),
        dtype=setup.dtype,
        max_model_len=setup.max_tokens,
        max_batched_tokens=setup.batched_tokens,
        max_sequences=setup.at_a_time,
        gpu_memory_utilization=SHARE,
    )
    policy = VllmPolicy(RolloutConfig(engine=config))

    async def all_of(prompts: list[list[int]]) -> int:
        turns = [
            policy.generate(prompt, [], max_tokens=setup.action_tokens, temperature=1.0, seed=number)
            for number, prompt in enumerate(prompts)
        ]
        return sum(len(turn.token_ids) for turn in await asyncio.gather(*turns))

    return lambda prompts: asyncio.run(all_of(prompts)), lambda: asyncio.run(policy.close())


def vllm(setup: Setup, directory: Path) -> tuple[Callable[[list[list[int]]], int], Callable[[], None]]:
    """vLLM by itself."""
    on_cpu = setup.device == "cpu"
    if on_cpu:
        os.environ.update(VLLM_ENABLE_V1_MULTIPROCESSING="0", TORCH_COMPILE_DISABLE="1")
    from vllm import LLM, SamplingParams

    options: dict[str, Any] = {"kv_cache_memory_bytes": 1 << 30} if on_cpu else {"gpu_memory_utilization": SHARE}
    engine = LLM(
        model=str(directory),
        dtype=cast(Any, setup.dtype),
        max_model_len=setup.max_tokens,
        max_num_batched_tokens=setup.batched_tokens,
        max_num_seqs=setup.at_a_time,
        enforce_eager=on_cpu,
        generation_config="vllm",
        limit_mm_per_prompt={"image": 16, "video": 0},
        **options,
    )
    sampling = SamplingParams(temperature=1.0, max_tokens=setup.action_tokens, logprobs=0, detokenize=False)

    def sample(prompts: list[list[int]]) -> int:
        outputs = engine.generate([{"prompt_token_ids": prompt} for prompt in prompts], sampling, use_tqdm=False)
        return sum(len(output.outputs[0].token_ids) for output in outputs)

    return sample, lambda: None


if __name__ == "__main__":
    side, place, rounds, seconds = sys.argv[1:]
    ends = time.monotonic() + float(seconds)
    setup = Setup.read(Path(place))
    directory = setup.policy(Path(place), "whole")
    sample, close = {"ours": ours, "vllm": vllm}[side](setup, directory)
    answer(_timed(sample, setup, directory, int(rounds), ends))
    close()
