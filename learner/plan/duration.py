"""How long the parts of an RL step take on a kind of GPU. Calculated from its published peaks, not measured."""

from __future__ import annotations

from dataclasses import dataclass

from learner.config import LearnerConfig
from learner.plan.architecture import Architecture
from learner.plan.memory import cache_bytes_per_token, trained_parameters
from learner.verl.configuration.passthrough import needs_reference, recomputes_old

LEARNER_UTILISATION = 0.4
"""Share of the peak that FSDP2 with checkpointing reaches: what verl and others report for models of 7 to 70 billion parameters."""

BANDWIDTH_UTILISATION = 0.6
"""Share of the memory bandwidth that decoding reaches."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """A kind of GPU: memory in bytes, dense bfloat16 operations a second, memory and network bandwidth in bytes a second."""

    memory_bytes: float
    flops: float
    bandwidth: float
    link: float


GPUS = {
    "a100-80": Gpu(80e9, 312e12, 2.04e12, 25e9),
    "h100": Gpu(80e9, 989e12, 3.35e12, 50e9),
    "h200": Gpu(141e9, 989e12, 4.8e12, 50e9),
    "b200": Gpu(180e9, 2250e12, 8e12, 50e9),
    "l40s": Gpu(48e9, 362e12, 0.864e12, 8e9),
}
"""By name; the peaks are those of NVIDIA's data sheets, the link is the network card that usually comes with it."""


@dataclass(frozen=True, slots=True)
class Workload:
    """One step: episodes, and the mean of their tokens and of those that are sampled."""

    episodes: int
    tokens: float
    sampled: float


def rollout_s(architecture: Architecture, gpu: Gpu, workload: Workload, *, gpus: int, across: int, at_a_time: int) -> float:
    """Decoding is bound by memory: each step reads the weights, of experts those that a token of the batch goes through, and the
    cache of every sequence of the batch.

    `gpus` hold engines, each over `across` of them and with at most `at_a_time` episodes. The last episodes decode in a batch that
    shrinks; that is taken as a tenth of their length alone.
    """
    engines = max(1, gpus // across)
    batch = max(1.0, min(at_a_time, workload.episodes / engines))
    cache = cache_bytes_per_token(architecture, across) * workload.tokens / 2 * batch
    step_s = (2 * architecture.used_parameters(batch) / across + cache) / (gpu.bandwidth * BANDWIDTH_UTILISATION)
    alone_s = 0.1 * workload.sampled * 2 * architecture.used_parameters() / across / (gpu.bandwidth * BANDWIDTH_UTILISATION)
    return workload.episodes * workload.sampled / engines / batch * step_s + alone_s


def learn_s(architecture: Architecture, config: LearnerConfig, gpu: Gpu, workload: Workload) -> float:
    """2 N operations a token forward; backward 2 N for gradients of inputs and 2 N of the weights that are trained; 2 N more with
    checkpointing (Kaplan et al. 2020, arXiv:2001.08361). Before that the `forward_passes`.

    N are the parameters that a token uses. No gradient goes through a frozen vision tower, which is then not recomputed either.
    """
    used = architecture.used_parameters()
    passed = used - architecture.vision_parameters * config.freeze_vision
    trained = min(trained_parameters(architecture, config), passed)
    step = 2 * used + 2 * passed + 2 * trained + 2 * passed * config.gradient_checkpointing
    before_s = len(forward_passes(config)) * forward_s(architecture, config, gpu, workload)
    return before_s + _multiply_s(step * config.ppo_epochs, config, gpu, workload)


def forward_passes(config: LearnerConfig) -> list[str]:
    """Whose log-probabilities take a forward pass of their own in each step."""
    old = ["old log-probabilities"] if recomputes_old(config, config.mini_batches * config.ppo_epochs) else []
    return old + (["reference policy"] if needs_reference(config) else [])


def forward_s(architecture: Architecture, config: LearnerConfig, gpu: Gpu, workload: Workload) -> float:
    """One of them: 2 N operations a token."""
    return _multiply_s(2 * architecture.used_parameters(), config, gpu, workload)


def _multiply_s(operations: float, config: LearnerConfig, gpu: Gpu, workload: Workload) -> float:
    """So many operations for each token of a step."""
    return operations * workload.tokens * workload.episodes / (gpu.flops * LEARNER_UTILISATION * config.workers)


def publish_s(architecture: Architecture, gpu: Gpu, *, shared: bool) -> float:
    """Weights in 16 bits: within a GPU's memory if learner and engine share it, else over the network."""
    return 2 * architecture.parameters / (gpu.bandwidth / 4 if shared else gpu.link)
