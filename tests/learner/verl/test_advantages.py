"""Advantages by each estimator equal NumPy's and verl's own on whole token arrays, also when the rows lie on several ranks."""

import threading

import numpy as np
import pytest
import torch
from verl.trainer.config import AlgoConfig
from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY, get_adv_estimator_fn

from learner.config import LearnerConfig, VerlSettings
from learner.verl.configuration.passthrough import ESTIMATORS, REFUSED_ESTIMATORS, advantages_on_ranks
from learner.verl.objective import advantages
from learner.verl.objective.advantages import outcome_advantages, token_advantages
from learner.verl.rows import Outcomes

REWARDS = np.array([1.0, 0.0, 0.5, 1.0, 0.3, 0.3, 0.3, 0.7, 0.0, 1.0], dtype=np.float32)
GROUPS = ["a", "a", "a", "a", "b", "b", "b", "alone", "c", "c"]
TOKENS = np.array([3, 5, 2, 7, 4, 1, 6, 2, 5, 3])
FORMAT = np.array([1, 1, 0, 1, 0, 1, 1, 1, 0, 1], dtype=np.float32)
PARTS = {"accuracy": REWARDS, "format": FORMAT}


def config(**algorithm):
    return LearnerConfig(verl=VerlSettings(algorithm=algorithm))


def by_group(function):
    """An estimator in NumPy: `function` of a group's rewards and tokens; nothing is learned from equal rewards."""

    def estimate(rewards=REWARDS, tokens=TOKENS):
        result = np.zeros(len(rewards))
        for group in set(GROUPS):
            members = np.array(GROUPS) == group
            if np.ptp(rewards[members]) > 0:
                result[members] = function(rewards[members].astype(float), tokens[members])
        return result

    return estimate


def standardised(rewards, tokens):
    return (rewards - rewards.mean()) / (rewards.std(ddof=1) + 1e-6)


def best_less_second(rewards, tokens):
    second, best = np.sort(rewards)[-2:]
    result = np.zeros(len(rewards))
    result[np.argmax(rewards)] = (best - second) / (rewards.std(ddof=1) + 1e-6)
    return result


def whiten(values, tokens=TOKENS):
    mean = (values * tokens).sum() / tokens.sum()
    variance = ((values - mean) ** 2 * tokens).sum() / (tokens.sum() - 1)
    return (values - mean) / np.sqrt(variance + 1e-8)


def centred(rewards):
    """Less the group's mean."""
    result = rewards.astype(float)
    for group in set(GROUPS):
        members = np.array(GROUPS) == group
        result[members] -= result[members].mean()
    return result


def gdpo():
    total = np.zeros(len(REWARDS))
    for part, weight in ((REWARDS, 1.0), (FORMAT, 0.5)):
        for group in set(GROUPS):
            members = np.array(GROUPS) == group
            if members.sum() > 1:
                total[members] += weight * standardised(part[members].astype(float), None)
    return whiten(total)


NUMPY = {
    "grpo": by_group(standardised),
    "grpo_vectorized": by_group(standardised),
    "grpo_passk": by_group(best_less_second),
    "rloo": by_group(lambda rewards, tokens: rewards - (rewards.sum() - rewards) / (len(rewards) - 1)),
    "rloo_vectorized": by_group(lambda rewards, tokens: rewards - (rewards.sum() - rewards) / (len(rewards) - 1)),
    "opo": by_group(lambda rewards, tokens: rewards - (rewards * tokens).sum() / tokens.sum()),
    "gpg": by_group(lambda rewards, tokens: len(REWARDS) / np.count_nonzero(REWARDS) * (rewards - rewards.mean())),
    "gdpo": gdpo,
    "reinforce_plus_plus": lambda: whiten(REWARDS.astype(float)),
    "reinforce_plus_plus_baseline": lambda: whiten(centred(REWARDS)),
}


def settings_of(name):
    extra = {"gdpo_reward_keys": ["accuracy", "format"], "gdpo_reward_weights": [1.0, 0.5]} if name == "gdpo" else {}
    return config(adv_estimator=name, **extra)


@pytest.mark.parametrize("name", NUMPY)
def test_advantages_equal_numpys(name):
    ours = outcome_advantages(settings_of(name), REWARDS, GROUPS, TOKENS, PARTS)
    np.testing.assert_allclose(ours, NUMPY[name](), atol=1e-5)


def test_every_estimator_of_verls_is_offered_or_refused_with_a_reason():
    assert {str(getattr(name, "value", name)) for name in ADV_ESTIMATOR_REGISTRY} == {*ESTIMATORS, *REFUSED_ESTIMATORS}
    assert set(NUMPY) == set(ESTIMATORS)


def token_arrays(rewards=REWARDS, tokens=TOKENS):
    """Mask and token-level rewards as verl's trainer has them, with a tool's answer amid every response."""
    mask = torch.zeros(len(tokens), tokens.max() + 3)
    outcome = torch.zeros_like(mask)
    for row, count in enumerate(tokens):
        places = [0, *range(4, 3 + count)] if count > 1 else [0]
        mask[row, places] = 1
        outcome[row, places[-1]] = float(rewards[row])
    return mask, outcome


@pytest.mark.parametrize("name", [name for name in NUMPY if name not in ("grpo_passk", "gdpo")])
def test_advantages_equal_verls_own_on_whole_token_arrays(name):
    # In a group of one verl leaves the reward, which would be whitened with the rest.
    played = np.array([name == "reinforce_plus_plus" or group != "alone" for group in GROUPS])
    groups = np.array(GROUPS, dtype=object)[played]
    mask, outcome = token_arrays(REWARDS[played], TOKENS[played])
    algorithm = AlgoConfig(adv_estimator=name)
    theirs, _ = get_adv_estimator_fn(name)(token_level_rewards=outcome.clone(), response_mask=mask, index=groups, config=algorithm)
    ours = outcome_advantages(config(adv_estimator=name), REWARDS[played], groups, TOKENS[played])[:, None] * mask.numpy()
    # In groups of equal rewards it leaves noise.
    rows = [row for row, group in enumerate(groups) if name.startswith("reinforce") or group != "b"]
    np.testing.assert_allclose(ours[rows], theirs.numpy()[rows], atol=1e-5)


@pytest.mark.parametrize("name", [name for name in NUMPY if name != "reinforce_plus_plus"])
def test_the_only_episode_of_a_group_teaches_nothing(name):
    rewards, groups, even = np.array([1, 0, 1, 0, 1], dtype=np.float32), list("aabbc"), np.full(5, 3)
    ours = outcome_advantages(settings_of(name), rewards, groups, even, {"accuracy": rewards, "format": rewards})
    assert ours[4] == pytest.approx(0, abs=1e-6)
    assert ours[0] > 0


def test_rewards_need_as_many_groups():
    with pytest.raises(ValueError, match="10 rewards need as many group ids, not 9"):
        outcome_advantages(config(), REWARDS, GROUPS[:-1])


def test_advantages_may_be_left_unscaled():
    ours = outcome_advantages(LearnerConfig(normalise_by_std=False), REWARDS, GROUPS)
    np.testing.assert_allclose(ours[:4], REWARDS[:4] - REWARDS[:4].mean(), atol=1e-6)


def in_ranks(monkeypatch, ranks, work):
    """Each rank's result of `work(rank)`, in threads that wait for each other where ranks would add up."""
    barrier, slots, results = threading.Barrier(ranks), {}, {}
    local = threading.local()

    def sums(group, *values):
        slots[local.rank] = values
        barrier.wait()
        added = [sum(parts) for parts in zip(*(slots[rank] for rank in range(ranks)), strict=True)]
        barrier.wait()
        return added

    def run(rank):
        local.rank = rank
        results[rank] = work(rank)

    monkeypatch.setattr(advantages, "_sums", sums)
    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(ranks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [results[rank] for rank in range(ranks)]


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("name", ["reinforce_plus_plus", "grpo", "opo", "rloo"])
def test_a_divergence_in_the_reward_is_taken_off_token_by_token(monkeypatch, name, ranks):
    settings = config(adv_estimator=name, use_kl_in_reward=True, kl_penalty="kl", kl_ctrl={"kl_coef": 0.1}, gamma=0.9)
    mask, outcome = token_arrays()
    generator = torch.Generator().manual_seed(0)
    old, reference = (torch.where(mask > 0, torch.randn(mask.shape, generator=generator), -torch.inf) for _ in range(2))
    difference = torch.where(mask > 0, old - reference, 0.0)
    theirs, _ = get_adv_estimator_fn(name)(
        token_level_rewards=outcome - 0.1 * difference,
        response_mask=mask,
        index=np.array(GROUPS, dtype=object),
        config=AlgoConfig(gamma=0.9),
    )
    outcomes = Outcomes(REWARDS, GROUPS, TOKENS, {})
    parts = np.array_split(np.random.default_rng(0).permutation(len(REWARDS)), ranks)
    computed = in_ranks(
        monkeypatch,
        ranks,
        lambda rank: token_advantages(settings, outcomes, parts[rank], mask[parts[rank]], old[parts[rank]], reference[parts[rank]]),
    )
    for rows, (ours, metrics) in zip(parts, computed, strict=True):
        kept = [place for place, row in enumerate(rows) if GROUPS[row] != "alone"]
        np.testing.assert_allclose(ours.numpy()[kept], theirs.numpy()[rows][kept], atol=1e-5)
        assert metrics["actor/reward_kl_penalty"] == pytest.approx(float(difference.sum() / mask.sum()), abs=1e-6)
    assert advantages_on_ranks(settings)
    assert not advantages_on_ranks(config(adv_estimator=name))


def test_rewards_are_discounted_from_token_to_token():
    settings = config(adv_estimator="reinforce_plus_plus", gamma=0.9)
    mask, outcome = token_arrays()
    theirs, _ = get_adv_estimator_fn("reinforce_plus_plus")(outcome.clone(), mask, config=AlgoConfig(gamma=0.9))
    ours, _ = token_advantages(settings, Outcomes(REWARDS, GROUPS, TOKENS, {}), np.arange(10), mask)
    np.testing.assert_allclose(ours.numpy(), theirs.numpy(), atol=1e-5)
    assert advantages_on_ranks(settings)
