"""The plan of a run: what each GPU and host holds, whether that fits, and how long a step takes. Calculated, without a GPU."""

from __future__ import annotations

from dataclasses import dataclass, field

from rich.console import Group
from rich.table import Table

from envs.errors import UsageError
from learner.experiment import Experiment
from learner.plan import duration, memory
from learner.plan.architecture import Architecture
from learner.plan.duration import GPUS, Gpu, Workload
from learner.plan.memory import Images, Part, total_bytes

_GB = 1e9
_ASLEEP_BYTES = 2_000_000_000
_FREE_SHARE = 0.95
"""Of a GPU's memory, what a plan may fill: the driver and other processes have the rest."""

_SMALLER_WEIGHTS = {"quantization", "cpu_offload_gb"}
"""vLLM's options with which an engine may hold fewer bytes than two for each parameter."""


@dataclass
class PlanConfig:
    """What a plan assumes beside the settings of the run."""

    gpu: str = "h100"
    """The kind of GPU: a100-80, h100, h200, b200 or l40s."""

    tokens: float = 0.3
    """Mean length of a transcript, as a share of rollout.episode.max_tokens."""

    sampled: float = 0.4
    """Share of those tokens that the policy samples."""

    images: float = 2.0
    """Mean number of images of an episode."""

    image_tokens: int = 1024
    """Visual tokens of an image."""


@dataclass(slots=True)
class Plan:
    """A plan: its parts per GPU, what speaks against it, and the seconds of a step.

    `impossible` are those of the `problems` that do not depend on what is assumed of transcripts, images and the allocator.
    """

    architecture: Architecture
    assumed: PlanConfig
    learner: list[Part]
    engine: list[Part]
    lines: list[tuple[str, str]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    impossible: list[str] = field(default_factory=list)
    step_s: float = 0.0

    def __rich__(self) -> Group:
        """Two tables: memory part by part, and everything else."""
        table = Table("per GPU", title=f"{self.architecture.name}: {self.architecture.parameters / _GB:.2f} billion parameters")
        table.add_column("GB", justify="right")
        table.add_column("formula")
        for side, parts in (("learner", self.learner), ("engine", self.engine)):
            for part in parts:
                table.add_row(f"{side}: {part.name}", f"{part.size_bytes / _GB:,.1f}", part.formula)
            table.add_row(
                f"{side}: together", f"{total_bytes(parts) / _GB:,.1f}", f"{memory.FRAGMENTATION} · sum", end_section=True
            )
        rest = Table("calculated", "")
        for name, value in self.lines:
            rest.add_row(name, value)
        return Group(table, rest)


def plan(config: Experiment, assumed: PlanConfig) -> Plan:
    """The plan of a run with these settings. Raises UsageError for an unknown GPU or model."""
    if assumed.gpu not in GPUS:
        raise UsageError(f"gpu={assumed.gpu}: write one of {', '.join(GPUS)}")
    return plan_on(GPUS[assumed.gpu], config, assumed)


def plan_on(gpu: Gpu, config: Experiment, assumed: PlanConfig) -> Plan:
    """The same on a GPU that `assumed.gpu` is the name of. Raises UsageError for an unknown model."""
    architecture, rollout, learner = Architecture.of(config.policy), config.rollout, config.learner
    tokens = assumed.tokens * rollout.episode.max_tokens
    workload = Workload(config.rl.groups * config.rl.group_size, tokens, assumed.sampled * tokens)
    # Their tokens are among those of the micro-batch.
    most = max(1, learner.micro_batch_tokens // assumed.image_tokens)
    images = Images(min(most, max(1, round(learner.micro_batch_tokens / tokens * assumed.images))), assumed.image_tokens)
    made = Plan(
        architecture,
        assumed,
        memory.learner_parts(architecture, learner, images),
        memory.engine_parts(architecture, rollout),
    )
    across = rollout.engine.tensor_parallel_size
    shared = rollout.engine.kind == "verl" and rollout.servers == 0
    engine_gpus = learner.workers if shared else (rollout.servers if rollout.engine.kind == "verl" else rollout.workers) * across
    budget = rollout.engine.gpu_memory_utilization * gpu.memory_bytes
    cache = budget - total_bytes(made.engine)
    per_token = memory.cache_bytes_per_token(architecture, across)
    episodes = cache / per_token / tokens
    _check(made, config, gpu.memory_bytes, budget, cache / per_token, shared)
    per_host = max(1, learner.workers // learner.nodes)
    rollout_s = duration.rollout_s(
        architecture,
        gpu,
        workload,
        gpus=engine_gpus,
        across=across,
        at_a_time=max(1, int(min(episodes, rollout.episodes_per_worker))),
    )
    learn_s = duration.learn_s(architecture, learner, gpu, workload)
    publish_s = duration.publish_s(architecture, gpu, shared=shared)
    made.step_s = rollout_s + learn_s + publish_s
    parts_s = f"rollout {rollout_s:,.0f}, learn {learn_s:,.0f}, publish {publish_s:,.1f}"
    sampled = f"{workload.sampled:,.0f} of them sampled"
    made.lines += [
        ("GPUs", f"{learner.workers} learn" + (" and sample in turns" if shared else f", {engine_gpus} sample")),
        ("cache of keys and values", f"{max(0, cache) / _GB:,.1f} GB per GPU: {max(0, episodes):,.0f} transcripts of mean length"),
        ("memory of a learner's host", f"{per_host * memory.learner_host_bytes(architecture, learner) / _GB:,.0f} GB"),
        ("workload", f"{workload.episodes:,} episodes of {tokens:,.0f} tokens, {sampled}"),
        (
            "a step",
            f"{made.step_s:,.0f} s: {parts_s}",
        ),
    ]
    forward_s = duration.forward_s(architecture, learner, gpu, workload)
    for name in duration.forward_passes(learner):
        host = per_host * memory.reference_host_bytes(architecture, learner) if name == "reference policy" else 0
        held = f"; {host / _GB:,.0f} GB of the host's memory" if host else ""
        made.lines.append((name, f"{forward_s:,.0f} s of learn: one forward pass{held}"))
    return made


def _check(made: Plan, config: Experiment, gpu_bytes: float, budget: float, cache_tokens: float, shared: bool) -> None:
    """Add what speaks against the plan, each with its remedy."""
    room = _FREE_SHARE * gpu_bytes
    learning = total_bytes(made.learner) + (_ASLEEP_BYTES if shared else 0)
    least, name = memory.least_bytes(made.learner, config.learner), made.assumed.gpu
    apart = config.rollout.gpus_per_worker > 0 and not config.learner.gpus_per_worker  # the learner's memory is a host's
    if learning > room and not apart:
        largest = max(made.learner, key=lambda part: part.size_bytes)
        _add(
            made,
            f"the learner needs {learning / _GB:,.0f} GB per GPU, {_a(name)} has {room / _GB:,.0f}; the largest part is "
            f"{largest.name} ({largest.size_bytes / _GB:,.0f} GB): {_remedy(largest.name)}",
            certain=least > gpu_bytes,
        )
    kept = memory.kept_while_sampling(made.architecture, config.learner) if shared else 0
    if kept + budget > room:
        _add(
            made,
            f"while it samples, the learner keeps {kept / _GB:,.0f} GB beside the engine's {budget / _GB:,.0f}: lower "
            "rollout.engine.gpu_memory_utilization, or write +learner.verl.engine.param_offload=true "
            "+learner.verl.engine.optimizer_offload=true",
            certain=kept + budget > gpu_bytes,
        )
    if halved := 0 < config.learner.gpus_per_worker < 1 and 0 < config.rollout.gpus_per_worker < 1 and learning + budget > room:
        _add(
            made,
            f"the learner's {learning / _GB:,.0f} GB and the engine's {budget / _GB:,.0f} are on one GPU, and {_a(name)} has "
            f"{room / _GB:,.0f}: lower rollout.engine.gpu_memory_utilization, or write topology=one_gpu, where they take turns",
            certain=least + budget > gpu_bytes,
        )
    weights = next(part.size_bytes for part in made.engine if part.name == "weights")
    has_gpus = config.rollout.engine.kind == "verl" or config.rollout.gpus_per_worker > 0
    if has_gpus and cache_tokens < config.rollout.episode.max_tokens and not halved:
        _add(
            made,
            f"the engine's cache holds {max(0, cache_tokens):,.0f} tokens and a transcript may have "
            f"{config.rollout.episode.max_tokens:,}: raise rollout.engine.tensor_parallel_size or .gpu_memory_utilization",
            certain=weights > budget and not _SMALLER_WEIGHTS & set(config.rollout.engine.extra),
        )


def _add(made: Plan, problem: str, *, certain: bool) -> None:
    made.problems.append(problem)
    if certain:
        made.impossible.append(problem)


def _a(name: str) -> str:
    return f"{'an' if name[:1] in 'ahl' else 'a'} {name}"


def _remedy(part: str) -> str:
    remedies = {
        "weights": "more learner.workers, or +learner.verl.engine.offload_policy=true",
        "gradients": "more learner.workers, or LoRA: +learner.verl.model.lora_rank=64",
        "optimizer": "more learner.workers, or LoRA: +learner.verl.model.lora_rank=64",
        "activations": "learner.gradient_checkpointing=true, or a lower learner.micro_batch_tokens",
    }
    return remedies.get(part, "a lower learner.micro_batch_tokens")
