"""Advantages by verl's estimators: from the outcomes of episodes alone, or token by token where a divergence is in the reward.

Axes: E episodes, R rows (the sequences of one rank), T tokens. Outcomes are one number an episode, so verl's estimators run on
columns of one token; those that weigh by tokens are given how many there are. No array of E x T is ever made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from verl.trainer.config import AlgoConfig
from verl.trainer.ppo.core_algos import get_adv_estimator_fn, kl_penalty
from verl.utils import torch_functional
from verl.utils.import_utils import import_external_libs

from learner.config import LearnerConfig
from learner.verl.configuration.settings import algorithm_config
from learner.verl.rows import Outcomes

WHITENED: dict[str, Callable[[AlgoConfig, torch.Tensor, np.ndarray, Mapping[str, np.ndarray]], torch.Tensor]] = {
    "reinforce_plus_plus": lambda config, rewards, index, parts: rewards,
    "reinforce_plus_plus_baseline": lambda config, rewards, index, parts: _grpo(rewards, index, by_std=False),
    "gdpo": lambda config, rewards, index, parts: _gdpo(config, index, parts),
}
"""verl whitens these over all tokens of the batch at the end; here is what it whitens, shape (E, 1)."""
STANDARDISED = ("grpo", "grpo_vectorized")
"""Estimators that take as an argument whether to divide by the group's standard deviation."""


def outcome_advantages(
    config: LearnerConfig,
    rewards: np.ndarray,
    group_ids: Sequence[str],
    tokens: np.ndarray | None = None,
    parts: Mapping[str, np.ndarray] | None = None,
) -> np.ndarray:
    """Advantages, shape (E,), of episodes with these rewards, shape (E,), by the estimator `learner.verl.algorithm.adv_estimator`.

    `tokens`, shape (E,), is how many tokens each episode sampled: OPO and the estimators that whiten the batch weigh by it
    (default: all alike). `parts` are the parts of the rewards, shape (E,) each, which GDPO compares one by one. If an estimator
    compares within groups, a group of one or of equal rewards teaches nothing: its advantages are 0, in GDPO and REINFORCE++
    with a baseline before the batch is whitened. Raises ValueError if lengths differ.
    """
    algorithm = algorithm_config(config)
    import_external_libs(config.verl.model.get("external_lib"))
    name = algorithm.adv_estimator
    rewards, index = np.asarray(rewards, dtype=np.float32), np.asarray(group_ids, dtype=object)
    if rewards.shape != index.shape:
        raise ValueError(f"{len(rewards)} rewards need as many group ids, not {len(index)}")
    counts = torch.ones(len(rewards), 1) if tokens is None else torch.from_numpy(np.asarray(tokens, dtype=np.float32))[:, None]
    scores = torch.from_numpy(rewards.copy())[:, None]
    if name in WHITENED:
        return _whiten(WHITENED[name](algorithm, scores, index, parts or {}), counts)[:, 0].numpy()
    advantages = np.zeros(len(rewards), dtype=np.float32)
    sizes = dict(zip(*np.unique(index, return_counts=True), strict=True))
    # verl's pass@k has no second best in a group of one, and says so by an exception.
    rows = np.array([sizes[group] > 1 or name != "grpo_passk" for group in index], dtype=bool)
    # Of the estimators that are left, OPO alone looks at the mask otherwise than to multiply by it at the end.
    mask = counts[rows].clamp(min=1) if name == "opo" else torch.ones(int(rows.sum()), 1)
    if rows.any():
        estimated, _ = get_adv_estimator_fn(name)(
            token_level_rewards=scores[rows],
            response_mask=mask,
            index=index[rows],
            config=algorithm,
            **({"norm_adv_by_std_in_grpo": algorithm.norm_adv_by_std_in_grpo} if name in STANDARDISED else {}),
        )
        advantages[rows] = (estimated / mask)[:, 0].numpy()
    # verl returns the bare reward for a group of one, and rounding noise over epsilon for equal rewards.
    for group in sizes:
        members = index == group
        if np.ptp(rewards[members]) == 0:
            advantages[members] = 0.0
    return advantages


def token_advantages(
    config: LearnerConfig,
    outcomes: Outcomes,
    episodes: np.ndarray,
    mask: torch.Tensor,
    old_log_probs: torch.Tensor | None = None,
    ref_log_probs: torch.Tensor | None = None,
    group: Any = None,
) -> tuple[torch.Tensor, dict[str, float]]:
    """Advantages, shape (R, T), of one rank's rows, with metrics; every rank calls it, also one whose rows are all masked.

    `episodes`, shape (R,), says to which episode each row belongs; `mask`, shape (R, T), is 1 on tokens that are trained on. With
    `use_kl_in_reward` each token's reward is less by `kl_coef` times the divergence of the old policy from the reference there,
    whose log-probabilities, shape (R, T), are then needed. REINFORCE++ (arXiv:2501.03262) sums those from token to token; the
    estimators of outcomes see an episode's sum. `group` is the process group of the ranks that have different rows.
    """
    algorithm, mask = algorithm_config(config), mask.float()
    divergence, metrics = torch.zeros_like(mask), {}
    if algorithm.use_kl_in_reward:
        if old_log_probs is None or ref_log_probs is None:
            raise ValueError("a divergence in the reward needs the log-probabilities of the old and of the reference policy")
        # where(), not a product: outside the mask log-probabilities may be anything.
        of_tokens: Any = kl_penalty
        divergence = torch.where(mask > 0, of_tokens(old_log_probs, ref_log_probs, algorithm.kl_penalty), 0.0)
        total, count = _sums(group, divergence.sum(), mask.sum())
        metrics = {"actor/reward_kl_penalty": float(total / count), "actor/reward_kl_penalty_coeff": algorithm.kl_ctrl.kl_coef}
    penalties = algorithm.kl_ctrl.kl_coef * divergence
    if algorithm.adv_estimator == "reinforce_plus_plus":
        rewards = -penalties
        last = (mask * torch.arange(mask.shape[1])).argmax(dim=1)
        outcome = torch.from_numpy(np.asarray(outcomes.rewards_E, dtype=np.float32)[episodes])
        rewards[torch.arange(len(rewards)), last] += outcome * mask.any(dim=1)
        return _whiten(_returns(rewards, mask, algorithm.gamma), mask, partial(_sums, group)) * mask, metrics
    of_episodes = torch.zeros(len(outcomes.rewards_E))
    of_episodes.index_add_(0, torch.from_numpy(episodes), penalties.sum(dim=1))
    (of_episodes,) = _sums(group, of_episodes)
    rewards_E = np.asarray(outcomes.rewards_E, dtype=np.float32) - of_episodes.numpy()
    advantages_E = outcome_advantages(config, rewards_E, outcomes.group_ids_E, outcomes.tokens_E, outcomes.parts_E)
    return torch.from_numpy(advantages_E[episodes])[:, None] * mask, metrics


def _grpo(rewards: torch.Tensor, index: np.ndarray, *, by_std: bool) -> torch.Tensor:
    function = get_adv_estimator_fn("grpo")
    advantages = function(rewards.clone(), torch.ones_like(rewards), index, norm_adv_by_std_in_grpo=by_std)[0]
    _, groups, sizes = np.unique(index, return_inverse=True, return_counts=True)
    # verl leaves a group of one its reward; less the group's mean it is 0.
    return torch.where(torch.from_numpy(sizes[groups] == 1)[:, None], 0.0, advantages)


def _gdpo(config: AlgoConfig, index: np.ndarray, parts: Mapping[str, np.ndarray]) -> torch.Tensor:
    """Each part of the reward compared within its groups on its own, then added (GDPO, arXiv:2601.05242)."""
    keys = config.gdpo_reward_keys or []
    if missing := [key for key in keys if key not in parts]:
        raise ValueError(f"the reward has no part {missing[0]}: its parts are {', '.join(parts) or 'unknown'}")
    columns = [torch.from_numpy(np.asarray(parts[key], dtype=np.float32))[:, None] for key in keys]
    weights = config.gdpo_reward_weights or [1.0] * len(keys)
    return sum(
        (
            weight * _grpo(column, index, by_std=config.norm_adv_by_std_in_grpo)
            for weight, column in zip(weights, columns, strict=True)
        ),
        torch.zeros(len(index), 1),
    )


def _returns(rewards: torch.Tensor, mask: torch.Tensor, gamma: float) -> torch.Tensor:
    """verl's discounted sums of the rewards that are still to come, over the tokens of the mask."""
    function = get_adv_estimator_fn("reinforce_plus_plus")
    # It whitens over what it is given as well; two tokens that do not count keep that from failing on a rank without any.
    padded = torch.nn.functional.pad
    _, returns = function(padded(rewards, (0, 2)), padded(mask, (0, 2), value=1.0), config=AlgoConfig(gamma=gamma))
    return returns[:, :-2]


def _whiten(values: torch.Tensor, weights: torch.Tensor, sums: Callable[..., list[torch.Tensor]] | None = None) -> torch.Tensor:
    """Values less their mean and over their standard deviation, as verl's `masked_whiten`; one that stands for n tokens weighs n.

    With `sums` the mean and the deviation are those of all ranks.
    """
    if sums is None:
        return torch_functional.masked_whiten(values, weights)
    total, count = sums((values * weights).sum(), weights.sum())
    mean = total / count
    (squares,) = sums(((values - mean).square() * weights).sum())
    return (values - mean) * torch.rsqrt(squares / (count - 1) + 1e-8)


def _sums(group: Any, *values: torch.Tensor) -> list[torch.Tensor]:
    """The sums over the ranks of a process group."""
    if torch.distributed.is_initialized():
        for value in values:
            torch.distributed.all_reduce(value, group=group)
    return list(values)
