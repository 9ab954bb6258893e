"""Memory of the learner and of the engines, per GPU and per host, part by part. Calculated, not measured.

Symbols of the formulas: N parameters, T trained ones, D ranks that share the model, L layers, h hidden size, f inner size, q and k
widths of queries and keys, M tokens of a micro-batch, V vocabulary, c bytes of the compute dtype (4 or 2).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from learner.config import LearnerConfig, Precision
from learner.plan.architecture import Architecture
from learner.verl.configuration.passthrough import has_adapter, needs_reference
from rollout.config import RolloutConfig

PINNED = 2
"""By so much larger, at most, is on the host what is offloaded: PyTorch rounds each pinned tensor up to a power of two. For
Qwen2.5-VL-7B it is 1.9 (https://github.com/pytorch/pytorch/issues/150517)."""

CONTEXT_BYTES = 2_500_000_000
"""CUDA's and NCCL's own memory in one process."""

FRAGMENTATION = 1.08
"""What PyTorch's allocator reserves for each byte that tensors hold."""

HEAD_BLOCK_BYTES = 256 << 20
"""Logits that exist at a time (`learner.verl.model.head.BLOCK_BYTES`); with their gradients and probabilities three times that."""


@dataclass(frozen=True, slots=True)
class Part:
    """A line of a plan: what it is, its size in bytes, and the formula that gave it."""

    name: str
    size_bytes: float
    formula: str


@dataclass(frozen=True, slots=True)
class Images:
    """The images of one micro-batch: `count` of `tokens` visual tokens each."""

    count: int
    tokens: int


def total_bytes(parts: Iterable[Part]) -> float:
    """Their sum, with what the allocator adds."""
    parts = list(parts)
    tensors = sum(part.size_bytes for part in parts if part.name != "context")
    return tensors * FRAGMENTATION + sum(part.size_bytes for part in parts if part.name == "context")


def learner_parts(architecture: Architecture, config: LearnerConfig, images: Images) -> list[Part]:
    """Peak memory of one rank on its GPU, in a policy step.

    Activations: the inputs of the products of a layer (Korthikanti et al. 2022, arXiv:2205.05198, section 4.1; for a gated MLP
    without dropout 4h + 2q + 3k + 3f numbers a token); with gradient checkpointing one layer's, and the input of each layer.
    Gathered units are the weights of two layers or tables of embeddings, and one's float32 gradient unless adapters alone learn.
    """
    engine = config.verl.engine
    compute = _compute_bytes(config)
    sharding = shards(config)
    trained = trained_parameters(architecture, config)
    weight_bytes, gradient_bytes = _number_bytes(config)
    moments = 2 if "8bit" in str(config.verl.optimizer.get("optimizer", "")).lower() else 2 * gradient_bytes
    # verl's param_offload and optimizer_offload move both back for a step; PyTorch's offload policy leaves them on the host.
    on_gpu = 0 if engine.get("offload_policy") else 1
    tokens = config.micro_batch_tokens
    a, checkpointed = architecture, config.gradient_checkpointing
    layer_numbers = 4 * a.hidden + 2 * a.query_width + 3 * a.key_value_width + 3 * a.inner
    kept_layers = 1 if checkpointed else a.layers
    unit = max(a.layer_parameters, a.embedding_parameters)
    unit_bytes, unit_formula = (2 * compute, "2 c") if has_adapter(config) else (2 * compute + 4, "(2 c + 4)")
    head = 3 * HEAD_BLOCK_BYTES + 8 * tokens * a.hidden
    parts = [
        Part("weights", weight_bytes * a.parameters / sharding * on_gpu, f"{weight_bytes} N / D"),
        Part("gradients", gradient_bytes * trained / sharding * on_gpu, f"{gradient_bytes} T / D"),
        Part("optimizer", moments * trained / sharding * on_gpu, f"{moments} T / D"),
        Part("gathered units", unit_bytes * unit if sharding > 1 else 0, f"{unit_formula} · largest unit"),
        Part("layer inputs", a.layers * tokens * a.hidden * compute if checkpointed else 0, "L M h c"),
        Part("activations", kept_layers * tokens * layer_numbers * compute, "M (4h + 2q + 3k + 3f) c, of kept layers"),
        Part("output layer", head, "3 · block + 8 M h"),
    ]
    if a.vision_layers:
        patches = images.count * images.tokens * a.patches_per_token
        vision = a.vision_layers if not config.gradient_checkpointing else 1
        numbers = vision * (9 * a.vision_hidden + 3 * a.vision_inner) + a.vision_layers * a.vision_hidden
        parts.append(
            Part("images", patches * (a.patch_numbers * 4 + numbers * compute), "patches (4 · pixels + tower's activations)")
        )
    return [*parts, Part("context", CONTEXT_BYTES, "CUDA, NCCL")]


def least_bytes(parts: Iterable[Part], config: LearnerConfig) -> float:
    """What of one rank's `learner_parts` there is whatever the lengths of transcripts and the sizes of images: weights, gradients
    and AdamW's moments. Other optimizers may hold less."""
    adam = "adam" in str(config.verl.optimizer.get("optimizer", "AdamW")).lower()
    return sum(part.size_bytes for part in parts if part.name in ("weights", "gradients") or (part.name == "optimizer" and adam))


def kept_while_sampling(architecture: Architecture, config: LearnerConfig) -> float:
    """What one rank keeps on its GPU between its steps, in bytes: weights and optimizer, unless they are offloaded."""
    parts = {part.name: part.size_bytes for part in learner_parts(architecture, config, Images(0, 0))}
    engine = config.verl.engine
    return (0 if engine.get("param_offload") else parts["weights"]) + (0 if engine.get("optimizer_offload") else parts["optimizer"])


def learner_host_bytes(architecture: Architecture, config: LearnerConfig) -> float:
    """Memory of one rank on its host: what is offloaded, a checkpoint on its way to disk, a reference policy, and 3 GB for the
    process."""
    engine, (weight_bytes, gradient_bytes) = config.verl.engine, _number_bytes(config)
    weights, moments = weight_bytes * architecture.parameters, 2 * gradient_bytes * trained_parameters(architecture, config)
    offloaded = (weights if engine.get("param_offload") or engine.get("offload_policy") else 0) + (
        moments if engine.get("optimizer_offload") or engine.get("offload_policy") else 0
    )
    return (PINNED * offloaded + weights + moments) / shards(config) + reference_host_bytes(architecture, config) + 3e9


def reference_host_bytes(architecture: Architecture, config: LearnerConfig) -> float:
    """Memory of one rank on its host for a reference policy, which always waits there; an adapter's is the policy without it."""
    apart = needs_reference(config) and not has_adapter(config)
    return PINNED * _compute_bytes(config) * architecture.parameters / shards(config) if apart else 0.0


def _compute_bytes(config: LearnerConfig) -> int:
    return 4 if config.precision is Precision.float32 else 2


def _number_bytes(config: LearnerConfig) -> tuple[int, int]:
    """Bytes of a weight, and of its gradient, of whose type AdamW's moments are as well: the weight's, but adapters are float32."""
    weight = {"fp32": 4, "float32": 4, "bf16": 2, "bfloat16": 2}[str(config.verl.engine.get("model_dtype", "fp32"))]
    return weight, 4 if config.verl.model.get("lora_rank") else weight


def engine_parts(architecture: Architecture, config: RolloutConfig) -> list[Part]:
    """Memory of one GPU of an engine without its cache of keys and values."""
    across = config.engine.tensor_parallel_size
    a, tokens = architecture, config.engine.max_batched_tokens
    return [
        Part("weights", 2 * a.parameters / across, "2 N / GPUs of an engine"),
        Part(
            "activations",
            tokens * (4 * a.hidden + 2 * a.inner / across) * 2 + config.engine.max_sequences * a.vocabulary * 8,
            "of a batch",
        ),
        Part("context", CONTEXT_BYTES, "CUDA, NCCL, graphs"),
    ]


def cache_bytes_per_token(architecture: Architecture, across: int) -> float:
    """Keys and values of one token on one GPU, 16 bits each: of whole heads, at least one (vLLM's `get_num_kv_heads`)."""
    heads = architecture.key_value_heads
    width = architecture.key_value_width / heads * max(1, heads // across)
    return 2 * 2 * architecture.attention_layers * width


def shards(config: LearnerConfig) -> int:
    """Among how many ranks the model is divided: all, or `learner.verl.engine.fsdp_size`."""
    size = int(config.verl.engine.get("fsdp_size", -1))
    return config.workers if size <= 0 else min(size, config.workers)


def trained_parameters(architecture: Architecture, config: LearnerConfig) -> int:
    """All, those without the vision tower, or those of LoRA's matrices: rank · (inputs + outputs) of each matrix of a layer."""
    rank = int(config.verl.model.get("lora_rank", 0))
    if rank:
        return architecture.layers * sum(rank * (inputs + outputs) for inputs, outputs in architecture.linear_widths)
    return architecture.parameters - architecture.vision_parameters * config.freeze_vision
