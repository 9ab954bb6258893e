"""Losses of verl's registry that need the whole mini-batch, and the weights that correct the sampler's log-probabilities.

Axes: R rows (sequences), T tokens. A rank may hold rows, and micro-batches, of which no token is trained on.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
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

MOSTS = ("_max", "_max_deviation")
"""How verl's figures that are the most of something end."""

_OPTION = re.compile(r"_(?P<level>seq|token)(_sum|_mean|_max)?_k[123](?=_)")


def correct(
    config: LearnerConfig, old_log_probs: torch.Tensor, sampler_log_probs: torch.Tensor, mask: torch.Tensor
) -> tuple[torch.Tensor | None, torch.Tensor, dict[str, float]]:
    """Importance weights, shape (R, T), or None; the mask without rejected tokens; metrics `rollout_corr/…` of those of this rank's
    rows that have a token to be trained on.

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
    real = mask.any(dim=1)  # verl's figures of sequences count every row that it is given
    corrected: Any = compute_rollout_correction_and_rejection_mask(
        old_log_prob=old[real],
        rollout_log_prob=sampler[real],
        response_mask=mask[real],
        rollout_is=settings.rollout_is,
        rollout_is_threshold=settings.rollout_is_threshold,
        rollout_is_batch_normalize=settings.rollout_is_batch_normalize,
        rollout_rs=settings.rollout_rs,
        rollout_rs_threshold=settings.rollout_rs_threshold,
    )
    weights, kept, metrics = corrected
    return (_of_all_rows(weights.batch["rollout_is_weights"], real) if weights else None), _of_all_rows(kept, real), metrics


def over_ranks(config: LearnerConfig, metrics: dict[str, float], mask: torch.Tensor, group: Any) -> dict[str, float]:
    """Metrics of all ranks, each with its mask, shape (R, T): the largest or least of those so named; of others the mean, weighted
    by sequences if they are figures of sequences, else by tokens."""
    own = metrics, float(mask.sum()), float(mask.any(dim=1).sum())
    gathered: list[Any] = [own]
    if torch.distributed.is_initialized():
        gathered = gathered * torch.distributed.get_world_size(group)
        torch.distributed.all_gather_object(gathered, own, group=group)
    of_sequences = correction_config(config).rollout_is == "sequence"
    found: dict[str, float] = {}
    for name in dict.fromkeys(name for of_rank, *_ in gathered for name in of_rank):
        values, *weights = zip(*[(of_rank[name], *sizes) for of_rank, *sizes in gathered if name in of_rank], strict=True)
        if name.endswith(MOSTS):
            found[name] = max(values)
        elif name.endswith("_min"):
            found[name] = min(values)
        else:
            found[name] = float(np.average(values, weights=weights[_is_of_sequences(name, by_sequence=of_sequences)]))
    return found


def _of_all_rows(values: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """The values of the real rows, and 0 in the others."""
    all_rows = values.new_zeros(len(real), *values.shape[1:])
    all_rows[real] = values
    return all_rows


def _is_of_sequences(name: str, *, by_sequence: bool) -> bool:
    """Whether a figure `rollout_corr/…` is a mean over sequences; `by_sequence` if importance weights are of those."""
    option = _OPTION.search(name)
    figure = _OPTION.sub("", name)
    if figure.endswith(("_fraction_high", "_fraction_low")) and "_seq_fraction" not in figure:
        return option["level"] == "seq" if option else by_sequence
    return "_seq_" in figure or "ppl" in figure or figure.endswith("/chi2_seq")


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
    """verl's loss in bypass mode, whose figures of sequences count every row that it is given, and which refuses a micro-batch of
    which no token is trained on: one without advantage stands in."""
    if not response_mask.any():
        response_mask = response_mask.clone()
        response_mask[0, 0] = 1
        old_log_prob, advantages = log_prob.detach(), torch.zeros_like(advantages)
    real = response_mask.any(dim=1)
    return _verls_bypass_mode(
        old_log_prob=old_log_prob[real],
        log_prob=log_prob[real],
        advantages=advantages[real],
        response_mask=response_mask[real],
        **arguments,
    )
