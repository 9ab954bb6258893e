"""What verl's losses are given beside the model's output, and what is measured on the way."""

from __future__ import annotations

from typing import Any

import torch
from verl.utils import tensordict_utils as tu
from verl.utils.metric import AggregationType, Metric
from verl.utils.torch_functional import masked_sum
from verl.workers.config import FSDPActorConfig
from verl.workers.utils.losses import ppo_loss, sft_loss
from verl.workers.utils.padding import no_padding_2_padding

from learner.verl.objective.losses import MOSTS

supervised_loss = sft_loss


def supervised_sequence_loss(
    config: FSDPActorConfig, model_output: dict[str, Any], data: Any, dp_group: Any = None
) -> tuple[Any, dict]:
    """The mean over sequences of each one's mean negative log-likelihood: a long demonstration counts no more than a short one.

    `data` has the column `token_weights`: 1 / (sampled tokens of the sequence · sequences of the batch over all ranks) at each
    sampled token, 0 elsewhere.
    """
    weights = torch.roll(data["token_weights"].values(), shifts=-1, dims=0)  # a prediction is filed under the token before
    return -masked_sum(model_output["log_probs"].values(), weights) * data["dp_size"], {}


def policy_loss(config: FSDPActorConfig, model_output: dict[str, Any], data: Any, dp_group: Any = None) -> tuple[Any, dict]:
    """verl's policy loss; the numbers by which it divides are those of the whole mini-batch, computed or not.

    `data`, a TensorDict, has the columns `advantages`, `rollout_log_probs`, `response_mask`, and `tokens` and `sequences`, the
    numbers of sampled tokens and of sequences in the mini-batch over all ranks. Without `old_log_probs` the policy is the one that
    acted: old are its own log-probabilities, and the ratio is 1. Metrics: verl's, and the mean entropy and distance to the sampler
    over the sampled tokens that were computed.
    """
    computed_tokens, ranks = data["batch_num_tokens"], data["dp_size"]
    log_probs = no_padding_2_padding(model_output["log_probs"], data)
    if "old_log_probs" not in data.keys():  # noqa: SIM118  a TensorDict looks among its tensors without it
        data["old_log_probs"] = log_probs.detach()
    columns = data.select("old_log_probs", "rollout_log_probs", "response_mask").to_padded_tensor()
    mask = columns["response_mask"].bool()
    # In bypass mode the sampler's log-probabilities are the old ones.
    bypass = config.policy_loss.loss_mode == "bypass_mode"
    ours = log_probs.detach() if bypass else columns["old_log_probs"]
    gaps = (ours - columns["rollout_log_probs"]).abs().masked_fill(~mask, 0.0)
    metrics: dict[str, Metric] = {}
    if computed_tokens:  # else there is nothing to measure, on any rank
        metrics = _means({"rollout/logprob_gap": gaps.sum()}, computed_tokens, ranks)
        metrics["rollout/logprob_gap_max"] = Metric(AggregationType.MAX, gaps.max())
        if (entropy := model_output.get("entropy")) is not None:
            entropies = no_padding_2_padding(entropy.detach(), data).masked_fill(~mask, 0.0)
            metrics |= _means({"actor/entropy": entropies.sum()}, computed_tokens, ranks)
    if not config.entropy_coeff:
        model_output = {name: value for name, value in model_output.items() if name != "entropy"}
    tu.assign_non_tensor(data, batch_num_tokens=int(data["tokens"][0]), global_batch_size=int(data["sequences"][0]))
    loss, shown = ppo_loss(config, model_output, data, dp_group)
    share = float(mask.sum()) * ranks / computed_tokens if computed_tokens else 0.0
    return loss, metrics | {name if "/" in name else f"actor/{name}": _mean(name, value, share) for name, value in shown.items()}


def _mean(name: str, value: Any, share: float) -> Metric:
    """A metric of verl's over the mini-batch: it averages some over a micro-batch, and then over micro-batches of any size."""
    metric = value if isinstance(value, Metric) else Metric(AggregationType.MEAN, value)
    if name.endswith((*MOSTS, "_min")):
        return Metric(AggregationType.MAX if name.endswith(MOSTS) else AggregationType.MIN, metric.aggregate())
    if metric.aggregation is AggregationType.MEAN and name != "kl_coef":
        return Metric(AggregationType.SUM, metric.aggregate() * share)
    return metric


def _means(sums: dict[str, torch.Tensor], tokens: int, ranks: int) -> dict[str, Metric]:
    """Sums over this micro-batch as shares of a mean over the mini-batch: verl adds micro-batches up and averages over ranks."""
    return {name: Metric(AggregationType.SUM, value * ranks / tokens) for name, value in sums.items()}
