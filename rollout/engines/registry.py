"""Engines by name or import path: what `rollout.engine.kind` may be.

An engine is a class whose instances are a `rollout.policy.Policy` or `ChatPolicy`. A worker makes one as
`Class(config: RolloutConfig, version: int)`, on a thread, since a construction may block until the engine is ready. Classes are
imported when they are needed: vLLM takes seconds to import, and the driver needs none of them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

from envs.errors import UsageError
from envs.runtime.garbage import importing
from envs.runtime.imports import find
from rollout.config import EngineConfig, RolloutConfig
from rollout.policy import ChatPolicy, Policy

log = logging.getLogger(__name__)

ENGINES = {
    "vllm": "rollout.engines.vllm:VllmPolicy",
    "verl": "rollout.engines.verl.policy:VerlPolicy",
    "endpoint": "rollout.engines.endpoint:Endpoint",
    "none": "rollout.engines.none:NoPolicy",
}
"""Import paths by name."""


def find_engine(kind: str) -> Callable[[RolloutConfig, int], Policy | ChatPolicy]:
    """The class of an engine. Raises UsageError if there is no such name, module or class."""
    with importing():
        return find("rollout.engine.kind", kind, ENGINES)


def weights_dtype(config: EngineConfig) -> str:
    """The type of the weights that an engine of vLLM computes with: that of its settings, or the checkpoint's own."""
    if config.dtype != "auto":
        return config.dtype
    from transformers import AutoConfig  # imported late: it takes seconds

    return str(AutoConfig.from_pretrained(config.policy).dtype or "float32").removeprefix("torch.")


def expert_count(text: Any) -> int:
    """The number of experts in a layer of a language model, from its configuration; 0 without."""
    names = ("num_experts", "num_local_experts", "n_routed_experts")
    return next((count for name in names if (count := getattr(text, name, None))), 0)


def keeps_prefixes(config: EngineConfig, on_cpu: bool) -> bool:
    """Whether an engine of vLLM keeps what earlier turns computed: not on a CPU if the model has a state, which is said.

    Raises UsageError if it cannot compute the policy with these settings at all.
    """
    if not (on_cpu and has_state(config.policy)):
        return config.prefix_caching
    if weights_dtype(config) != "bfloat16":
        raise UsageError(
            f"{config.policy} has layers with a state, which vLLM computes on a CPU in bfloat16 only: "
            "write rollout.engine.dtype=bfloat16"
        )
    if config.prefix_caching:
        # It could only if it computed prompts in parts: see `whole_prompts`.
        log.warning("on a CPU vLLM keeps no prefixes of a model with a state: rollout.engine.prefix_caching=true has no effect")
    return False


def has_state(policy_dir: str) -> bool:
    """Whether a policy has layers with a state that runs from token to token (Qwen3.5's gated delta rule)."""
    from transformers import AutoConfig  # imported late: it takes seconds

    return "linear_attention" in (getattr(AutoConfig.from_pretrained(policy_dir).get_text_config(), "layer_types", None) or ())


def whole_prompts(config: EngineConfig) -> dict[str, Any]:
    """Options with which no prompt is computed in parts, for a CPU.

    vLLM takes back the sample that it drew behind a part of a prompt by the offset of the request's generator, which generators of
    CPUs do not have: the engine would die of it. It may still if one step has more image tokens than `max_batched_tokens`
    (`crowded_images`).
    """
    return {"enable_chunked_prefill": False, "max_num_batched_tokens": _batched_tokens(config)}


def _batched_tokens(config: EngineConfig) -> int:
    return max(config.max_batched_tokens, config.max_model_len)


def crowded_images(config: RolloutConfig, image_tokens: int) -> str | None:
    """What to change if an engine of vLLM on a CPU may be given more images in one step than it can compute; None if it may not.

    `image_tokens` is what the largest image takes. Of a prompt that ends shortly behind an image, which is cached up to there, few
    tokens are computed and nevertheless the whole image: the bound on tokens does not bound images. A prompt whose image finds no
    room is then computed up to the image alone.
    """
    engine = config.engine
    at_a_time, room = min(engine.max_sequences, config.episodes_per_worker), _batched_tokens(engine)
    on_cpu = engine.device == "cpu" or (engine.device == "auto" and not config.gpus_per_worker)
    if engine.kind != "vllm" or not on_cpu or not engine.prefix_caching or at_a_time * image_tokens <= room:
        return None
    needed, fitting = at_a_time * image_tokens, max(1, room // image_tokens)
    return (
        f"on a CPU vLLM can die if images of more than rollout.engine.max_batched_tokens={room} tokens are due in one step, and "
        f"{at_a_time} episodes may each have one of {image_tokens}: write rollout.engine.max_batched_tokens={needed}, "
        f"rollout.episodes_per_worker={fitting} or rollout.engine.prefix_caching=false, or lower rollout.episode.max_pixels"
    )


def lacking(names: Iterable[str]) -> str:
    """What is said of a policy in whose files weights are missing, whoever finds it out."""
    missing = sorted(names)
    tied = ", or write tie_word_embeddings=true in it" if all(name.endswith("lm_head.weight") for name in missing) else ""
    return f"lacks weights that its config.json asks for: {first_few(missing)}: fetch or save it again{tied}"


def first_few(texts: Iterable[str]) -> str:
    """The first three, and the number of all."""
    known = sorted(texts)
    return ", ".join(known[:3]) + (f", … ({len(known)} in all)" if len(known) > 3 else "")
