"""The settings of a rollout in verl's own form, and the environment of its servers' processes."""

from __future__ import annotations

import os
import uuid
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from envs.errors import UsageError
from rollout.config import RolloutConfig
from rollout.engines.registry import expert_count, has_state, weights_dtype, whole_prompts
from rollout.tokens.chat_format import banned_token_ids

_MIB = 1 << 20
_GPU_BUCKET_MIB = 512


def environment(config: RolloutConfig, on_cpu: bool) -> dict[str, str]:
    """Variables of the servers' processes, which are read while verl and vLLM are imported."""
    shared = {
        # The first model runner, since it is the one with logits processors of one's own.
        "VLLM_USE_V2_MODEL_RUNNER": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": os.environ.get("VLLM_LOGGING_LEVEL", "WARNING"),
        "VERL_LOGGING_LEVEL": os.environ.get("VERL_LOGGING_LEVEL", "WARNING"),
    }
    if not on_cpu:
        return shared
    return shared | {
        "VERL_PLATFORM": "cpu",
        "VERL_USE_EXTERNAL_MODULES": "rollout.engines.verl.cpu_platform",
        # Else compiling the first batch takes 20 s, even in eager mode.
        "TORCH_COMPILE_DISABLE": "1",
        # With tensor parallelism 1 vLLM then computes in the engine's process: one process less, which would import vLLM again.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        # A server's processes wait for each other in turn: threads that spin while they wait take the cores from those that work.
        "OMP_NUM_THREADS": str(config.engine.cpu_threads),
        "OMP_WAIT_POLICY": "PASSIVE",
        # Ray would empty CUDA_VISIBLE_DEVICES of whoever asks for none of the GPUs that it was told of.
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }


def transport(config: RolloutConfig, on_cpu: bool) -> str:
    """verl's name of how weights reach the servers: "naive" is CUDA IPC between processes that share a GPU."""
    if config.servers == 0:
        return "naive"
    return "gloo" if on_cpu else "nccl"


def check_transport(config: RolloutConfig, on_cpu: bool) -> None:
    """Raise UsageError if servers with these settings could not be sent weights. Those that are only asked need no transport."""
    if config.engine.kind == "verl" and transport(config, on_cpu) == "nccl" and find_spec("cupy") is None:
        raise UsageError(
            "rollout.engine.kind=verl sends weights to GPUs of their own by NCCL, for which verl needs the package cupy-cuda13x: "
            "install it (pip install cupy-cuda13x==14.0.1), or write rollout.servers=0 to sample on the learner's GPUs"
        )


def verl_config(config: RolloutConfig, on_cpu: bool) -> Any:
    """verl's configuration of the servers (an OmegaConf tree): its own defaults, and ours where the two have the same meaning.

    Raises UsageError for wrong `extra`, and for what vLLM's servers cannot compute on a CPU.
    """
    import verl
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf
    from transformers import AutoConfig, AutoProcessor

    if config.engine.extra:
        from rollout.engines.vllm_engine import check_extra  # it imports vLLM

        check_extra(config.engine.extra)
    engine = config.engine
    processor, model = AutoProcessor.from_pretrained(engine.policy), AutoConfig.from_pretrained(engine.policy)
    image_processor = getattr(processor, "image_processor", None)
    if on_cpu and has_state(engine.policy):
        raise UsageError(
            f"{engine.policy} has layers with a state, which verl's servers do not serve on a CPU: write rollout.engine.kind=vllm"
        )
    if on_cpu and expert_count(model.get_text_config()) and weights_dtype(engine) == "float32":
        raise UsageError(
            f"{engine.policy} has experts, which verl's servers do not compute in float32 on a CPU: write "
            "rollout.engine.kind=vllm, or rollout.engine.dtype=bfloat16"
        )
    hybrid = config.servers == 0
    options: dict[str, Any] = {
        "generation_config": "vllm",  # else the checkpoint's sampling defaults make log-probabilities those of another distribution
        "logits_processors": ["rollout.engines.banned_tokens:BannedTokens"],
        "additional_config": {"banned_token_ids": banned_token_ids(getattr(processor, "tokenizer", processor), model)},
        "block_size": engine.block_size or (32 if on_cpu else None),
    }
    if image_processor is not None:
        # Behind the other: what it refuses with is a token that nobody may sample.
        options["logits_processors"].append("rollout.engines.verl.prompt_check:PromptCheck")
        options["limit_mm_per_prompt"] = {"image": engine.max_images, "video": 0}
        if engine.image_cache_bytes is not None:
            options["mm_processor_cache_gb"] = engine.image_cache_bytes / 2**30
    batches: dict[str, Any] = {"max_num_batched_tokens": engine.max_batched_tokens}
    if on_cpu:
        options["kv_cache_memory_bytes"] = int(engine.cpu_cache_gib * 2**30)
        options["worker_extension_cls"] = "rollout.engines.verl.cpu_worker.CpuWorkerExtension"
        batches = whole_prompts(engine)
        if engine.tensor_parallel_size == 1:
            options["distributed_executor_backend"] = "uni"
    backend = transport(config, on_cpu)
    if backend == "nccl" and find_spec("cupy") is None:
        backend = "naive"  # verl's receivers make one at their start: these can be asked, and `check_transport` refuses updates
    channel: dict[str, Any] = {
        "backend": backend,
        # A group of its own for each start: ranks that outlive the servers would otherwise go on with one whose members are gone.
        "engine_kwargs": {"nccl": {"group_name": f"toolwise-{uuid.uuid4().hex}"}},
        "custom_backend_module": "rollout.engines.verl.gloo" if on_cpu else None,
        # Shared memory, which stands in for CUDA IPC on a CPU, takes no tensor that is larger than the bucket.
        "update_weights_bucket_megabytes": max(64, _largest_mib(engine.policy)) if on_cpu else _GPU_BUCKET_MIB,
    }
    rollout: dict[str, Any] = {
        "name": "vllm",
        "nnodes": config.servers,
        "n_gpus_per_node": engine.tensor_parallel_size,
        "tensor_model_parallel_size": engine.tensor_parallel_size,
        # vLLM's own "auto" turns float32 into 16 bits, and then log-probabilities differ from the learner's.
        "dtype": weights_dtype(engine),
        "load_format": "auto",
        "seed": engine.seed,
        "max_model_len": engine.max_model_len,
        "max_num_seqs": engine.max_sequences,
        **batches,
        "enable_prefix_caching": engine.prefix_caching,
        "gpu_memory_utilization": engine.gpu_memory_utilization,
        "enforce_eager": engine.enforce_eager or on_cpu,
        # Sleep, with which a server gives its memory to the learner, means nothing on GPUs of its own; vLLM has none on a CPU.
        "free_cache_engine": hybrid and not on_cpu,
        "enable_sleep_mode": hybrid and not on_cpu,
        "checkpoint_engine": channel,
        "engine_kwargs": {"vllm": options | engine.extra},
    }
    with initialize_config_dir(os.path.join(os.path.dirname(verl.__file__), "trainer/config"), version_base=None):
        whole = compose("ppo_trainer")
    OmegaConf.set_struct(whole, False)
    ours = {"actor_rollout_ref": {"rollout": rollout, "model": {"path": os.path.abspath(engine.policy)}}}
    return OmegaConf.merge(whole, ours)


def _largest_mib(policy_dir: str) -> int:
    """MiB, rounded up, of the largest tensor of a policy's files."""
    from safetensors import safe_open

    largest = 0
    for path in Path(policy_dir).glob("*.safetensors"):
        with safe_open(path, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118  it is no dictionary
                # 4 bytes an element: what the learner's weights may be, whatever the files hold.
                numbers = 1
                for length in tensors.get_slice(name).get_shape():
                    numbers *= length
                largest = max(largest, 4 * numbers)
    return -(-largest // _MIB)
