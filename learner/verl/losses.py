"""The policy objective: verl's `ppo_loss` with its registered losses, and the weights that correct the sampler's log-probabilities.

Axes: R rows (sequences), T tokens. A rank may hold rows, and micro-batches, of which no token is trained on.
"""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDict
from verl.trainer.ppo.core_algos import (
    compute_policy_loss_bypass_mode,
    compute_policy_loss_geo_mean,
    register_policy_loss,
)
from verl.trainer.ppo.rollout_corr_helper import compute_rollout_correction_and_rejection_mask
from verl.utils import torch_functional
from verl.utils.metric import AggregationType, Metric
from verl.workers.config import FSDPActorConfig
from verl.workers.utils.losses import ppo_loss

from learner.config import LearnerConfig
from learner.verl.settings import correction_config

_verls_geo_mean: Any = compute_policy_loss_geo_mean
_verls_bypass_mode: Any = compute_policy_loss_bypass_mode
_register: Any = register_policy_loss


def policy_loss(
    config: FSDPActorConfig, model_output: dict[str, torch.Tensor], data: TensorDict, dp_group: Any = None
) -> tuple[torch.Tensor, dict[str, Metric]]:
    """verl's `ppo_loss` of a micro-batch, for its engine to add up; metrics are named `actor/…`.

    verl averages some metrics over the tokens of each micro-batch, and then over micro-batches however many tokens they have. Here
    such a metric is the mean over all tokens of the mini-batch.
    """
    loss, metrics = ppo_loss(config, model_output, data, dp_group)
    mask: Any = data["response_mask"]
    batch: Any = data
    share = float(mask.values().sum()) / batch["batch_num_tokens"] * batch["dp_size"]
    named = {}
    for name, value in metrics.items():
        metric = value if isinstance(value, Metric) else Metric(AggregationType.MEAN, value)
        if name.endswith("_max") or name.endswith("_min"):
            metric = Metric(AggregationType.MAX if name.endswith("_max") else AggregationType.MIN, metric.aggregate())
        elif metric.aggregation is AggregationType.MEAN and name != "kl_coef":
            metric = Metric(AggregationType.SUM, metric.aggregate() * share)
        named[name if "/" in name else f"actor/{name}"] = metric
    return loss, named


def correct(
    config: LearnerConfig, old_log_probs: torch.Tensor, sampler_log_probs: torch.Tensor, mask: torch.Tensor
) -> tuple[torch.Tensor | None, torch.Tensor, dict[str, float]]:
    """Importance weights, shape (R, T), or None; the mask without rejected tokens; metrics `rollout_corr/…` of this rank's rows.

    All arguments but the settings have shape (R, T): the log-probabilities that the learner and the sampler gave to the sampled
    tokens, and 1 on those. Every rank calls it, since weights may be normalised over all ranks' tokens.
    """
    settings = correction_config(config)
    mask = mask.float()
    # where(), not a product: outside the mask log-probabilities may be anything.
    old, sampler = (torch.where(mask > 0, values, 0.0) for values in (old_log_probs, sampler_log_probs))
    if not mask.any():
        # verl refuses such rows; its collective call must be answered all the same.
        if settings.rollout_is and settings.rollout_is_batch_normalize and torch.distributed.is_initialized():
            empty = mask if settings.rollout_is == "token" else mask[:, 0]
            torch_functional.distributed_masked_mean(empty.clone(), empty)
        return (torch.zeros_like(mask) if settings.rollout_is else None), mask, {}
    corrected: Any = compute_rollout_correction_and_rejection_mask(
        old_log_prob=old,
        rollout_log_prob=sampler,
        response_mask=mask,
        rollout_is=settings.rollout_is,
        rollout_is_threshold=settings.rollout_is_threshold,
        rollout_is_batch_normalize=settings.rollout_is_batch_normalize,
        rollout_rs=settings.rollout_rs,
        rollout_rs_threshold=settings.rollout_rs_threshold,
    )
    weights, kept, metrics = corrected
    return (weights.batch["rollout_is_weights"] if weights else None), kept, metrics


def corrects(config: LearnerConfig) -> bool:
    """Whether the objective needs `correct`: in bypass mode verl computes the weights inside the loss."""
    correction = correction_config(config)
    return bool(correction.rollout_is or correction.rollout_rs) and not correction.bypass_mode


def bypasses(config: LearnerConfig) -> bool:
    """Whether the sampler's log-probabilities stand for the old policy's, which are then not computed."""
    return correction_config(config).bypass_mode


@_register("geo_mean")
def _geo_mean(response_mask: torch.Tensor, config: Any, **arguments: Any) -> tuple[torch.Tensor, dict[str, Any]]:
    """GMPO's mean over the sequences of the whole mini-batch: verl's is over those of a micro-batch, filler among them."""
    loss, metrics = _verls_geo_mean(response_mask=response_mask, config=config, **arguments)
    batch = config.global_batch_info
    return loss * len(response_mask) / batch["global_batch_size"] * batch["dp_size"], metrics


@_register("bypass_mode")
def _bypass_mode(
    old_log_prob: torch.Tensor,
    log_prob: torch.Tensor,
    advantages: torch.Tensor,
    response_mask: torch.Tensor,
    **arguments: Any,
) -> tuple[torch.Tensor, dict[str, Any]]:
    """verl's loss in bypass mode, which refuses a micro-batch of which no token is trained on: one without advantage stands in."""
    if not response_mask.any():
        response_mask = response_mask.clone()
        response_mask[0, 0] = 1
        old_log_prob, advantages = log_prob.detach(), torch.zeros_like(advantages)
    return _verls_bypass_mode(
        old_log_prob=old_log_prob, log_prob=log_prob, advantages=advantages, response_mask=response_mask, **arguments
    )
