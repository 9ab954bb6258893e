"""Before anything starts: whether a run can fit the GPUs of the cluster that it has joined."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from envs.errors import UsageError
from learner.experiment import Experiment
from learner.trainer import TRAINERS
from rollout.cluster.gpu_memory import gpu_memory_bytes


def check_memory(
    config: Experiment, say: Callable[[str], None], memory_bytes: Callable[[], float | None] = gpu_memory_bytes
) -> None:
    """Raise UsageError, in one line with a remedy, if a run whose learner or engine has GPUs cannot fit them. Ray must be running.

    A plan's estimate of activations, images and the allocator may be too high for short transcripts or small pictures. Refused is
    therefore only what weights, gradients and optimizer, or the engine's weights, already exceed; for the rest `say` is given a
    warning. It also says if nothing was checked, since no machine tells the memory of its GPUs, which `memory_bytes` returns.
    """
    if not (config.learner.gpus_per_worker or config.rollout.gpus_per_worker) or config.learner.kind not in TRAINERS:
        return
    from learner.plan.duration import GPUS  # these import transformers, which takes seconds
    from learner.plan.plan import PlanConfig, plan_on

    memory = memory_bytes()
    if memory is None:
        say("memory: not checked, since no machine of the cluster says how much its GPUs have")
        return
    try:
        gpu = replace(GPUS["h100"], memory_bytes=memory)  # seconds are not looked at
        made = plan_on(gpu, config, PlanConfig(gpu="GPU of this cluster"))
    except (UsageError, ValueError, LookupError, AttributeError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        say(f"memory: not checked, since the sizes of policy {config.policy} cannot be worked out: {reason}")
        return
    if made.impossible:
        raise UsageError(f"this run cannot fit: {'; '.join(made.impossible)} (more: toolwise doctor with the same settings)")
    for problem in made.problems:
        say(f"memory may not be enough, calculated for long transcripts and large images: {problem}")
