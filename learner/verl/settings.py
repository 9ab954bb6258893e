"""The settings of the learner in verl's own dataclasses."""

from __future__ import annotations

from verl.trainer.config import CheckpointConfig
from verl.workers.config import FSDPActorConfig, FSDPEngineConfig, FSDPOptimizerConfig, HFModelConfig, TrainingWorkerConfig

from learner.config import LearnerConfig


def worker_config(policy_dir: str, config: LearnerConfig, seed: int) -> TrainingWorkerConfig:
    """Model, engine and optimizer of one rank. `policy_dir` is in the Hugging Face layout."""
    compute = {"float32": "fp32", "bfloat16": "bf16"}[config.precision]
    return TrainingWorkerConfig(
        model_type="language_model",
        model_config=HFModelConfig(
            path=policy_dir,
            use_remove_padding=True,
            enable_gradient_checkpointing=config.gradient_checkpointing,
            override_config={"attn_implementation": "sdpa"},  # until the engine puts in its own
        ),
        engine_config=FSDPEngineConfig(
            strategy="fsdp2",
            model_dtype="fp32",
            mixed_precision={"param_dtype": compute, "reduce_dtype": "fp32", "buffer_dtype": "fp32"},
            use_torch_compile=False,
            seed=seed,
        ),
        optimizer_config=FSDPOptimizerConfig(
            betas=(config.adam_beta1, config.adam_beta2), weight_decay=config.weight_decay, clip_grad=config.grad_clip
        ),
        checkpoint_config=CheckpointConfig(),
    )


def actor_config(config: LearnerConfig) -> FSDPActorConfig:
    """The policy objective."""
    return FSDPActorConfig(
        strategy="fsdp2",
        rollout_n=1,
        use_dynamic_bsz=True,
        clip_ratio_low=config.clip_low,
        clip_ratio_high=config.clip_high,
        loss_agg_mode="token-mean",
        entropy_coeff=config.entropy_coefficient,
        use_kl_loss=False,
    )
