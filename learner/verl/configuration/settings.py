"""The settings of the learner in verl's own dataclasses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, get_args, get_type_hints

from verl.trainer.config import AlgoConfig, CheckpointConfig, RolloutCorrectionConfig
from verl.workers.config import FSDPActorConfig, FSDPEngineConfig, FSDPOptimizerConfig, HFModelConfig, TrainingWorkerConfig

from learner.config import LearnerConfig
from learner.verl.configuration.passthrough import PRECISIONS, values_of

FUSED = ("Adam", "AdamW")
"""PyTorch's optimizers whose step, of sharded weights too, can be one pass over them. Its default for weights on CPU takes one
for each of its operations, which for 135 million of them is slower than the gradient of a small batch."""


def worker_config(policy_dir: str, config: LearnerConfig, seed: int) -> TrainingWorkerConfig:
    """Model, engine and optimizer of one rank. `policy_dir` is in the Hugging Face layout."""
    return TrainingWorkerConfig(
        model_type="language_model",
        model_config=_model_config(policy_dir, config),
        engine_config=_engine_config(config, seed),
        optimizer_config=_optimizer_config(config),
        checkpoint_config=CheckpointConfig(),
    )


def reference_config(policy_dir: str, config: LearnerConfig, seed: int) -> TrainingWorkerConfig:
    """Model and engine of one rank for a reference policy: it is never trained and has no adapter.

    Its weights are kept in the type in which it computes.
    """
    return TrainingWorkerConfig(
        model_type="language_model",
        model_config=_model_config(policy_dir, config, lora_rank=0, lora_adapter_path=None, enable_gradient_checkpointing=False),
        engine_config=_engine_config(config, seed, forward_only=True, model_dtype=PRECISIONS[config.precision]),
        optimizer_config=FSDPOptimizerConfig(),
        checkpoint_config=CheckpointConfig(),
    )


def actor_config(config: LearnerConfig) -> FSDPActorConfig:
    """The policy objective."""
    values = values_of(config, "actor")
    correction = values_of(config, "algorithm")["rollout_correction"]
    loss = dict(values.get("policy_loss", {}))
    if correction.get("bypass_mode"):
        loss |= {"loss_mode": "bypass_mode", "rollout_correction": correction}
    return _build(FSDPActorConfig, values | {"policy_loss": loss})


def algorithm_config(config: LearnerConfig) -> AlgoConfig:
    """The advantage estimator, the divergence in the reward and the correction of the sampler's log-probabilities."""
    return _build(AlgoConfig, values_of(config, "algorithm"))


def correction_config(config: LearnerConfig) -> RolloutCorrectionConfig:
    """The correction of the sampler's log-probabilities: importance weights, rejected tokens, or bypass of the old policy's."""
    return _build(RolloutCorrectionConfig, values_of(config, "algorithm")["rollout_correction"])


def _model_config(policy_dir: str, config: LearnerConfig, **changes: Any) -> HFModelConfig:
    return _build(HFModelConfig, values_of(config, "model") | {"path": policy_dir} | changes)


def _optimizer_config(config: LearnerConfig) -> FSDPOptimizerConfig:
    made = _build(FSDPOptimizerConfig, values_of(config, "optimizer") | {"betas": (config.adam_beta1, config.adam_beta2)})
    given = made.override_optimizer_config or {}
    if made.optimizer_impl != "torch.optim" or made.optimizer not in FUSED or {"fused", "foreach"} & set(given):
        return made
    return replace(made, override_optimizer_config={"fused": True} | given)


def _engine_config(config: LearnerConfig, seed: int, **changes: Any) -> FSDPEngineConfig:
    values = values_of(config, "engine")
    precision = {"reduce_dtype": "fp32", "buffer_dtype": "fp32"} | values["mixed_precision"]
    return _build(FSDPEngineConfig, values | {"mixed_precision": precision, "seed": seed} | changes)


def _build(kind: Any, values: Mapping[str, Any]) -> Any:
    """An instance of one of verl's dataclasses, and of those that it holds."""
    hints = get_type_hints(kind)
    made = dict(values)
    for field in fields(kind):
        inner = next((hint for hint in (hints[field.name], *get_args(hints[field.name])) if is_dataclass(hint)), None)
        if inner and isinstance(made.get(field.name), Mapping):
            made[field.name] = _build(inner, made[field.name])
    return kind(**made)
