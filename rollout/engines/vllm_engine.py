"""An engine of vLLM from the settings: what it is told, and what is checked before."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import logging
import os
from collections.abc import Iterable
from typing import Any, cast

import torch
import torch._dynamo.config

# Read while vLLM is imported and configured. One process, since a separate engine process takes a minute longer to start on a small
# machine; the first model runner, since it is the one with custom logits processors.
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("VLLM_USE_V2_MODEL_RUNNER", "0")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
if not torch.cuda.is_available():
    # Else compiling the first batch takes 20 s, even in eager mode. vLLM reads the variable; torch may have read it before it was
    # set.
    os.environ.setdefault("TORCH_COMPILE_DISABLE", "1")
    torch._dynamo.config.disable = os.environ["TORCH_COMPILE_DISABLE"] == "1"

from transformers import AutoConfig, AutoTokenizer
from vllm import EngineArgs, ModelRegistry
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.platforms import current_platform
from vllm.usage.usage_lib import UsageContext
from vllm.v1.engine.llm_engine import LLMEngine

from envs.errors import UsageError
from rollout.config import EngineConfig, RolloutConfig
from rollout.engines.banned_tokens import BANNED_KEY, BannedTokens
from rollout.engines.registry import has_state, keeps_prefixes, weights_dtype, whole_prompts
from rollout.engines.vllm_weights import WHOLE, WeightReceiver
from rollout.tokens.chat_format import banned_token_ids

log = logging.getLogger(__name__)

_SETTINGS = {
    "model": "policy",
    "tokenizer": "policy",
    "dtype": "dtype",
    "seed": "seed",
    "max_model_len": "max_model_len",
    "max_num_seqs": "max_sequences",
    "max_num_batched_tokens": "max_batched_tokens",
    "enable_prefix_caching": "prefix_caching",
    "tensor_parallel_size": "tensor_parallel_size",
    "enforce_eager": "enforce_eager",
    "gpu_memory_utilization": "gpu_memory_utilization",
    "block_size": "block_size",
    "limit_mm_per_prompt": "max_images",
}
"""Options of vLLM that have a setting of their own, by its name in `rollout.engine`."""
_FIXED = {
    "worker_extension_cls": "weights are taken by ours",
    "logits_processors": "tokens that nobody may sample are taken out by ours",
    "additional_config": "it carries the tokens that nobody may sample",
    "logprobs_mode": "the learner needs those of the distribution that was sampled from",
    "generation_config": "a checkpoint's sampling defaults would make it another distribution",
    "async_scheduling": "an update of the weights needs an engine that has no step under way",
    "mm_processor_cache_gb": "images are kept by rollout.engine.image_cache_bytes",
    "enable_sleep_mode": "nothing here puts the engine to sleep",
    "enable_lora": "updates are whole weights",
    "config_format": "a policy is read as the learner reads it",
    "load_format": "a policy is read as the learner reads it",
    "tokenizer_mode": "a policy is read as the learner reads it",
}
"""Options of vLLM that Toolwise depends on, and why."""
_IMAGE_CACHE_SHARE = 0.05


def check_extra(extra: dict[str, Any]) -> None:
    """Raise UsageError if an option of `rollout.engine.extra` is none of vLLM's, or not for the user to choose."""
    known = [option.name for option in dataclasses.fields(EngineArgs)]
    for name in extra:
        if name in _SETTINGS:
            raise UsageError(f"rollout.engine.extra.{name}: write rollout.engine.{_SETTINGS[name]} instead")
        if name in _FIXED:
            raise UsageError(f"rollout.engine.extra.{name}: leave it out, {_FIXED[name]}")
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            guess = f": did you mean {close[0]}?" if close else "; write a field of vLLM's EngineArgs"
            raise UsageError(f"rollout.engine.extra.{name}: vLLM has no such option{guess}")


def build_engine(config: EngineConfig) -> LLMEngine:
    """Start the engine. Its forward passes run on the calling thread.

    Raises UsageError for wrong `extra` and for vLLM's build for another device, and what vLLM raises.
    """
    check_extra(config.extra)
    on_cpu = config.device == "cpu" or (config.device == "auto" and not torch.cuda.is_available())
    if on_cpu != current_platform.is_cpu():
        # PyTorch's build is the same: nothing else tells, and an engine meant for a GPU would sample on the CPU.
        device, group = ("a CPU", "cpu") if on_cpu else ("a GPU", "gpu")
        raise UsageError(f"the engine is to run on {device}, and the vLLM that is installed cannot: make install GROUP={group}")
    model_config = AutoConfig.from_pretrained(config.policy)
    multimodal = getattr(model_config, "image_token_id", None) is not None
    options: dict[str, Any] = {"max_num_batched_tokens": config.max_batched_tokens}
    if on_cpu:
        # The number of threads is a property of the calling thread, which is the one that runs the forward passes.
        torch.set_num_threads(config.cpu_threads)
        options |= {"kv_cache_memory_bytes": int(config.cpu_cache_gib * 2**30), "block_size": config.block_size or 32}
        options |= whole_prompts(config)
        _import_here(model_config.architectures or ())
    else:
        options |= {"gpu_memory_utilization": config.gpu_memory_utilization}
        if config.block_size:
            options["block_size"] = config.block_size
    if multimodal:
        options |= {"limit_mm_per_prompt": {"image": config.max_images, "video": 0}, "mm_processor_cache_gb": 0}
    if config.tensor_parallel_size > 1:
        # Processes of its own; left to itself, vLLM would ask Ray for GPUs that this worker holds already.
        options["distributed_executor_backend"] = "mp"
    arguments = EngineArgs(
        model=config.policy,
        # As the learner reads it, and not Mistral's own files beside them.
        config_format="hf",
        load_format=WHOLE,
        tokenizer_mode="hf",
        # vLLM's own "auto" turns float32 into 16 bits, and then log-probabilities differ from the learner's.
        dtype=cast(Any, weights_dtype(config)),
        seed=config.seed,
        max_model_len=config.max_model_len,
        max_num_seqs=config.max_sequences,
        enable_prefix_caching=keeps_prefixes(config, on_cpu),
        tensor_parallel_size=config.tensor_parallel_size,
        # Graphs of a GPU's kernels are on unless the user says otherwise.
        enforce_eager=config.enforce_eager or on_cpu,
        # A weight update needs an engine that has no step under way when it has no request.
        async_scheduling=False,
        disable_log_stats=True,
        # Log-probabilities of the distribution that was sampled from: after the mask and the temperature.
        logprobs_mode="processed_logprobs",
        logits_processors=[BannedTokens],
        additional_config={BANNED_KEY: banned_token_ids(AutoTokenizer.from_pretrained(config.policy), model_config)},
        worker_extension_cls=f"{WeightReceiver.__module__}.{WeightReceiver.__qualname__}",
        # The checkpoint's sampling defaults (top_p and the like) would make log-probabilities those of another distribution.
        generation_config="vllm",
        **(options | config.extra),
    )
    preload, set_num_threads = os.environ.get("LD_PRELOAD"), torch.set_num_threads
    try:
        settings = arguments.create_engine_config(UsageContext.ENGINE_CONTEXT)
        with settings_at_hand(settings):
            engine = LLMEngine.from_vllm_config(settings, disable_log_stats=True)
        if on_cpu and has_state(config.policy):
            engine.collective_rpc("empty_new_blocks")
        return engine
    finally:
        # vLLM disables the one for good, and sets the other for its own workers: what environments start must not inherit it.
        torch.set_num_threads = set_num_threads
        if preload is None:
            os.environ.pop("LD_PRELOAD", None)
        else:
            os.environ["LD_PRELOAD"] = preload


def settings_at_hand(settings: VllmConfig) -> contextlib.AbstractContextManager[None]:
    """For what computes with an engine: on a CPU vLLM's experts in float32 ask for the settings while they do."""
    asked_for = current_platform.is_cpu() and settings.model_config.is_moe
    return set_current_vllm_config(settings) if asked_for else contextlib.nullcontext()


def _import_here(architectures: Iterable[str]) -> None:
    """Have vLLM import the models' modules in this process.

    It asks a new process first what a model can do, to keep CUDA out of this one, and remembers the answer in its cache: without
    CUDA, the first engine of an architecture would wait some ten seconds for nothing. What cannot be imported is left to it: it
    says so when it asks.
    """
    for name in architectures:
        if name in ModelRegistry.models:
            with contextlib.suppress(Exception):
                ModelRegistry.register_model(name, ModelRegistry.models[name].load_model_cls())


def image_cache_bytes(config: RolloutConfig, processor: Any) -> int:
    """The size of the cache of preprocessed images, in bytes: the setting, or room for all images that may be shown at a time.

    The room is that of `episodes_per_worker` episodes with `max_images` images of the most pixels that vLLM's multi-modal
    `processor` and `max_pixels` let through, at most 5 % of the machine's memory. Memory is taken only by images that come.
    """
    if config.engine.image_cache_bytes is not None:
        return config.engine.image_cache_bytes
    largest = getattr(processor.info, "get_image_size_with_most_features", None)
    size = largest() if largest else None
    pixels = min(config.episode.max_pixels, size.width * size.height) if size else config.episode.max_pixels
    vision = getattr(processor.info.get_hf_config(), "vision_config", None)
    # float32 of three colours, which some families repeat for the frames of a video.
    per_pixel = 4 * 3 * getattr(vision, "temporal_patch_size", 1)
    wanted = config.episodes_per_worker * config.engine.max_images * pixels * per_pixel
    most = int(_IMAGE_CACHE_SHARE * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    chosen = min(wanted, most)
    # An image that has been pushed out is preprocessed anew at each turn.
    log.log(
        logging.WARNING if chosen < wanted else logging.INFO,
        "preprocessed images are kept in up to %.2f GB (rollout.engine.image_cache_bytes=null): %d episodes with %d images of %.2f "
        "megapixels take %.2f GB, and 5 %% of the memory is %.2f GB",
        chosen / 1e9,
        config.episodes_per_worker,
        config.engine.max_images,
        pixels / 1e6,
        wanted / 1e9,
        most / 1e9,
    )
    return chosen
