"""A run of `toolwise train` on the built-in world, engine and learner on the one GPU: what a step takes part by part, what the
update of the weights takes, and what memory the learner had at its peak.

"servers": verl's, which sleep while the policy learns (topology=one_gpu). "in_process": vLLM in the rollout worker, which keeps its
share of the GPU.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.figures import Figure
from benchmarks.gpu import end, environment, last_line
from benchmarks.gpu.part import Job, Results
from learner.config import LearnerConfig, Precision, VerlSettings
from learner.experiment import Experiment, HeldOutConfig, RLConfig, Stage, TrackingConfig
from learner.plan.architecture import Architecture
from learner.plan.duration import GPUS
from learner.plan.memory import FRAGMENTATION, Images, learner_parts
from learner.plan.plan import PlanConfig, plan_on
from rollout.config import EngineConfig, EpisodeConfig, RolloutConfig

PARTS = ("rollout", "update_weights", "generate", "learn", "sync")
_CLOSE_S = 20.0
_POLL_S = 0.5
_GIB = 2**30
_OFFLOAD = {"param_offload": True, "optimizer_offload": True}
_LORA = {"lora_rank": 64, "exclude_modules": ".*visual.*"}
WAYS = {
    "servers": ((0.45, {}, {}), (0.5, _OFFLOAD, {}), (0.5, _OFFLOAD | {"model_dtype": "bf16"}, _LORA)),
    "in_process": ((0.3, {}, {}), (0.35, {"model_dtype": "bf16"}, _LORA)),
}
"""The engine's share of the GPU, and `learner.verl.engine` and `.model`: the first that the plan says fits is taken."""


def measure(job: Job, engine: str) -> Results:
    """Seconds of a step's parts, medians over the steps after the first, of which the whole step is the reference."""
    config = experiment(job, engine)
    out, log = Path(config.out), job.place / f"run_{engine}.train.log"
    command = [sys.executable, "-m", "toolwise", "train", *overrides(config)]
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment(), cwd=job.place)
        try:
            lines = _watch(process, out / "metrics.jsonl", job)
        finally:
            end(process, signal.SIGINT, _CLOSE_S)  # the run would go on
    if len(lines) < 2:
        raise RuntimeError(f"toolwise train made {len(lines)} steps of {job.setup.steps}: {last_line(log)}")
    results = Results(_figures(job, engine, config, lines[1:]))
    if job.setup.device != "cpu":
        verl, share = config.learner.verl, config.rollout.engine.gpu_memory_utilization
        results.said.append(f"gpu_memory_utilization={share}, learner.verl: {verl.engine | verl.model or 'the defaults'}")
    return results


def experiment(job: Job, engine: str) -> Experiment:
    """The run's settings. Raises RuntimeError if none fit this GPU, as far as the plan knows."""
    if job.setup.device == "cpu":
        return _experiment(job, engine, 0.9, VerlSettings())
    memory, problems = json.loads((job.place / "machine.json").read_text())["memory_bytes"], []
    for share, engine_settings, model_settings in WAYS[engine]:
        config = _experiment(job, engine, share, VerlSettings(engine=engine_settings, model=model_settings))
        gpu = replace(GPUS["h100"], memory_bytes=memory)  # its seconds are not looked at
        problems = plan_on(gpu, config, PlanConfig("GPU like this one", tokens=0.5, image_tokens=64)).problems
        if not problems:
            return config
    raise RuntimeError(f"it does not fit this GPU: {problems[0]}")


def _experiment(job: Job, engine: str, share: float, verl: VerlSettings) -> Experiment:
    setup, on_gpu = job.setup, job.setup.device != "cpu"
    together = engine == "servers"
    return Experiment(
        out=str(job.place / f"run_{engine}"),
        policy=str(setup.policy(job.place, "whole")),
        stages=[Stage.rl],
        # It is stopped after a few steps, before a checkpoint of all weights and of the optimizer is written.
        rl=RLConfig(
            steps=1_000_000,
            checkpoint_every=1_000_000,
            groups=setup.groups,
            group_size=setup.group_size,
            learning_rate=1e-6,
        ),
        evaluation=HeldOutConfig(episodes=2),
        tracking=TrackingConfig(mode="disabled"),
        learner=LearnerConfig(
            gpus_per_worker=(1.0 if together else 0.5) if on_gpu else 0.0,
            precision=Precision(setup.dtype),
            gradient_checkpointing=True,
            micro_batch_tokens=setup.micro_batch_tokens,
            # A random policy earns nothing, and what has no advantage is not computed: with an entropy bonus all of it is.
            entropy_coefficient=0.001,
            verl=verl,
        ),
        rollout=RolloutConfig(
            gpus_per_worker=0.0 if together or not on_gpu else 0.5,
            servers=0 if on_gpu else 1,
            episodes_per_worker=setup.at_a_time,
            sandboxes_per_worker=0,  # it never calls a tool either
            episode=EpisodeConfig(max_tokens=setup.max_tokens, max_action_tokens=setup.action_tokens, max_turns=2),
            engine=EngineConfig(
                kind="verl" if together else "vllm",
                dtype=setup.dtype,
                max_model_len=setup.max_tokens,
                max_batched_tokens=setup.batched_tokens,
                max_sequences=setup.at_a_time,
                gpu_memory_utilization=share,
            ),
        ),
    )


def overrides(config: Experiment) -> list[str]:
    """What one writes behind `toolwise train` for these settings: all that are not the defaults."""
    return list(_differences(asdict(config), asdict(Experiment()), ""))


def _differences(settings: dict[str, Any], defaults: dict[str, Any], path: str) -> Iterator[str]:
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _differences(value, defaults.get(name, {}), f"{path}{name}.")
        elif name not in defaults:
            yield f"+{path}{name}={json.dumps(value)}"
        elif value != defaults[name]:
            yield f"{path}{name}={json.dumps(value)}"


def _watch(process: subprocess.Popen, metrics: Path, job: Job) -> list[dict[str, float]]:
    """The lines of `metrics.jsonl` once there are as many as steps are wanted, the run has ended, or little time is left."""
    lines: list[dict[str, float]] = []
    while len(lines) < job.setup.steps and job.left_s > 1.5 * _CLOSE_S:
        ended = process.poll() is not None
        written = metrics.read_text() if metrics.exists() else ""
        lines = [json.loads(line) for line in written[: written.rfind("\n") + 1].splitlines()]  # the last may be under way
        if ended:
            break
        time.sleep(_POLL_S)
    return lines


def _figures(job: Job, engine: str, config: Experiment, lines: list[dict[str, float]]) -> list[Figure]:
    architecture = Architecture.of(config.policy)
    made = []
    for part in PARTS:
        if f"timing_s/{part}" in lines[0]:
            figure = Figure(f"step_{part} ({engine})", "s", "the whole step")
            for line in lines:
                figure.add(line[f"timing_s/{part}"], line["timing_s/step"])
            made.append(figure)
    update = "update_weights" if config.shares_gpus else "sync"
    size = architecture.parameters * (4 if job.setup.dtype == "float32" else 2)
    copy_s = _copy_s(size, job.setup.device)
    published = Figure(f"publish ({engine})", "s", f"a copy of the same {size / 1e9:.2g} GB in the device's memory")
    for line in lines:
        # On a CPU servers have places of their own, and `sync` is the update.
        published.add(line[f"timing_s/{update}"], copy_s)
    made.append(published)
    if "perf/max_memory_allocated_gb" in lines[-1]:
        count = max(1, 2 * config.learner.micro_batch_tokens // job.setup.max_tokens)
        parts = learner_parts(architecture, config.learner, Images(count, 64))  # the built-in world's are small
        held = sum(part.size_bytes for part in parts if part.name != "context") / 1e9
        peak = Figure(f"memory ({engine})", "GB", "the plan's estimate of the learner's tensors, calculated")
        peak.add(lines[-1]["perf/max_memory_allocated_gb"] * _GIB / 1e9, held)
        reserved = Figure(f"memory_reserved ({engine})", "GB", "the plan's, with what the allocator adds, calculated")
        reserved.add(lines[-1]["perf/max_memory_reserved_gb"] * _GIB / 1e9, held * FRAGMENTATION)
        made += [peak, reserved]
    return made


def _copy_s(size: int, device: str) -> float:
    """Seconds of a copy of so many bytes within a device's memory, the median of five after a first one."""
    import torch

    source, target = (torch.ones(size, dtype=torch.uint8, device=device) for _ in range(2))
    seconds = []
    for _ in range(6):
        started = time.perf_counter()
        target.copy_(source)
        if device != "cpu":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return median(seconds[1:])
