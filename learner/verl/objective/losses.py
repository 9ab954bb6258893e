"""Losses of verl's registry that need the whole mini-batch, and the weights that correct the sampler's log-probabilities.

Axes: R rows (sequences), T tokens. A rank may hold rows, and micro-batches, of which no token is trained on.
"""

from __future__ import annotations

from typing import Any

import torch
from verl.trainer.ppo.core_algos import (
    compute_policy_loss_bypass_mode,
    compute_policy_loss_geo_mean,
    register_policy_loss,
)
from verl.trainer.ppo.rollout_corr_helper import compute_rollout_correction_and_rejection_mask
from verl.utils import torch_functional

from learner.config import LearnerConfig
from learner.verl.configuration.settings import correction_config

_verls_geo_mean: Any = compute_policy_loss_geo_mean
_verls_bypass_mode: Any = compute_policy_loss_bypass_mode
_register: Any = register_policy_loss


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


def over_ranks(metrics: dict[str, float], tokens: float, group: Any) -> dict[str, float]:
    """Metrics of all ranks, each of so many tokens: their mean weighted by tokens, or the largest or least of those so named."""
    gathered: list[Any] = [(metrics, tokens)]
    if torch.distributed.is_initialized():
        gathered = [None] * torch.distributed.get_world_size(group)
        torch.distributed.all_gather_object(gathered, (metrics, tokens), group=group)
    found: dict[str, float] = {}
    for name in dict.fromkeys(name for of_rank, _ in gathered for name in of_rank):
        values, weights = zip(*[(of_rank[name], weight) for of_rank, weight in gathered if name in of_rank], strict=True)
        if name.endswith(("_max", "_min")):
            found[name] = max(values) if name.endswith("_max") else min(values)
        else:
            found[name] = sum(value * weight for value, weight in zip(values, weights, strict=True)) / sum(weights)
    return found


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
