"""Each policy loss, each way of averaging it, the divergence from a reference and the correction of the sampler's log-probabilities
equal NumPy's, however a mini-batch is cut into micro-batches and whatever filler it holds."""

import numpy as np
import pytest
import torch
from verl.trainer.ppo.core_algos import POLICY_LOSS_REGISTRY, kl_penalty_forward
from verl.trainer.ppo.rollout_corr_helper import SUPPORTED_ROLLOUT_RS_OPTIONS
from verl.utils import tensordict_utils as tu
from verl.utils.metric import Metric

from learner.config import LearnerConfig, VerlSettings
from learner.verl.configuration.passthrough import AGGREGATIONS, DIVERGENCES, LOSSES, REJECTIONS, bypasses, corrects
from learner.verl.configuration.settings import actor_config
from learner.verl.objective.losses import correct, over_ranks
from learner.verl.objective.policy import policy_loss

LENGTHS = [5, 8, 6, 7]  # tokens after the first
LOW, HIGH = 0.2, 0.28
RNG = np.random.default_rng(0)
WIDTH = max(LENGTHS)
MASK = np.array([[place < length and place not in (1, 2) for place in range(WIDTH)] for length in LENGTHS])
NEW = RNG.normal(-1.5, 0.6, MASK.shape).clip(max=-0.05)
OLD = (NEW + RNG.normal(0, 0.4, MASK.shape)).clip(max=-0.05)
REFERENCE = (NEW + RNG.normal(0, 0.4, MASK.shape)).clip(max=-0.05)
ADVANTAGES = np.array([1.0, -0.5, 0.25, -2.0])[:, None] * np.ones(MASK.shape)
WEIGHTS = RNG.uniform(0.2, 2.0, MASK.shape)
RATIO = np.exp(NEW - OLD)
TOKENS = MASK.sum(axis=1)
A = ADVANTAGES


def clipped(ratio):
    return np.maximum(-A * ratio, -A * ratio.clip(1 - LOW, 1 + HIGH))


def vanilla():
    return np.where(A < 0, np.minimum(clipped(RATIO), -A * 3.0), clipped(RATIO))


def gspo():
    of_sequence = np.exp(((NEW - OLD) * MASK).sum(axis=1) / TOKENS)[:, None] * np.ones(MASK.shape)
    return clipped(of_sequence)


def sapo():
    tau = np.where(A > 0, 1.0, 1.05)
    return -A * 4 / tau / (1 + np.exp(-tau * (RATIO - 1)))


def dppo(kind):
    new, old = np.exp(NEW), np.exp(OLD)
    if kind == "tv":
        kept = np.where(A > 0, new - old <= HIGH, new - old >= -LOW)
    else:
        divergence = old * (OLD - NEW) + (1 - old) * np.log((1 - old + 1e-8) / (1 - new + 1e-8))
        kept = np.where(A > 0, (divergence <= HIGH) | (new <= old), (divergence <= LOW) | (new >= old))
    return -A * RATIO.clip(max=3.0) * NEW * kept


def geo_mean():
    sign = np.sign(A)
    log_ratio = sign * np.minimum(sign * (NEW - OLD), sign * (NEW - OLD).clip(-LOW, HIGH))
    of_sequence = -A[:, 0] * np.exp((log_ratio * MASK).sum(axis=1) / TOKENS)
    return of_sequence.mean()


def kl_cov():
    """The token whose advantage goes most with its log-probability pays for its distance from the old policy."""
    losses = -A * RATIO
    covariance = np.where(MASK, (A - A[MASK].mean()) * (NEW - NEW[MASK].mean()), -np.inf)
    place = np.unravel_index(covariance.argmax(), covariance.shape)
    losses[place] += 0.1 * abs(NEW - OLD)[place]
    return losses


def clip_cov():
    """A token whose advantage goes with its log-probability, within bounds, drops out: here the bounds hold one token alone."""
    covariance = (A - A[MASK].mean()) * (NEW - NEW[MASK].mean())
    losses = clipped(RATIO)
    inside = MASK & (losses == -A * RATIO) & (covariance > BOUNDS[0]) & (covariance < BOUNDS[1])
    assert inside.sum() == 1
    return np.where(inside, 0.0, losses)


def bounds_of_one_token():
    covariance = (A - A[MASK].mean()) * (NEW - NEW[MASK].mean())
    candidates = np.sort(covariance[MASK & (clipped(RATIO) == -A * RATIO)])
    return (float(candidates[-2] + candidates[-1]) / 2, float(candidates[-1]) + 1)


BOUNDS = bounds_of_one_token()
TOKEN_LOSSES = {
    "vanilla": vanilla,
    "gspo": gspo,
    "sapo": sapo,
    "gpg": lambda: -NEW * A,
    "dppo_tv": lambda: dppo("tv"),
    "dppo_kl": lambda: dppo("kl"),
    "dro": lambda: -(NEW * A - 0.5 * 0.3 * (NEW - OLD) ** 2),
    "cispo": lambda: -RATIO.clip(1 - LOW, 1 + HIGH) * A * NEW,
    "clip_cov": clip_cov,
    "kl_cov": kl_cov,
}
OF_WHOLE_MICRO_BATCHES = ("clip_cov", "kl_cov")  # they compare the tokens of a micro-batch with each other
LOSS_SETTINGS = {"dro": {"dro_beta": 0.3}, "clip_cov": {"clip_cov_lb": BOUNDS[0], "clip_cov_ub": BOUNDS[1]}}
MEANS = {
    "token-mean": lambda losses: losses[MASK].mean(),
    "token-sum": lambda losses: losses[MASK].sum(),
    "seq-mean-token-sum": lambda losses: (losses * MASK).sum() / len(MASK),
    "seq-mean-token-mean": lambda losses: ((losses * MASK).sum(axis=1) / TOKENS).mean(),
    "seq-mean-token-sum-norm": lambda losses: (losses * MASK).sum() / len(MASK) / 20,
}


def settings(actor=None, algorithm=None, **changes):
    return LearnerConfig(clip_low=LOW, clip_high=HIGH, verl=VerlSettings(actor=actor or {}, algorithm=algorithm or {}), **changes)


def jagged(values, lengths, first=False):
    rows = [torch.tensor(row[:length], dtype=torch.float32) for row, length in zip(values, lengths, strict=True)]
    rows = [torch.cat([row, row.new_zeros(1)]) if first else row for row in rows]
    return torch.nested.as_nested_tensor(rows, layout=torch.jagged)


def micro_batch(rows, entropy=None, **columns):
    """The model's output and the data of some rows; -1 is filler. verl files a prediction under the token before."""
    filler = [row < 0 for row in rows]
    rows = [max(row, 0) for row in rows]
    lengths = [LENGTHS[row] for row in rows]
    mask = MASK[rows] & ~np.array(filler)[:, None]
    columns = {"old_log_probs": OLD, "rollout_log_probs": OLD, "advantages": ADVANTAGES} | columns
    tensors = {name: jagged(np.where(mask, values[rows], 0.0), lengths) for name, values in columns.items()}
    tensors["response_mask"] = jagged(mask, lengths).to(torch.int64)
    tensors["prompts"], tensors["responses"] = jagged(mask[:, :1], [1] * len(rows)), jagged(mask, lengths)
    for name, number in (("tokens", int(MASK.sum())), ("sequences", len(MASK))):
        tensors[name] = torch.full((len(rows),), number)
    data = tu.get_tensordict(tensors, {"dp_size": 1, "batch_num_tokens": int(MASK.sum())})
    output = {"log_probs": jagged(NEW[rows], lengths, first=True)}
    if entropy is not None:
        output["entropy"] = jagged(entropy[rows], lengths, first=True)
    return output, data


def loss_of(config, cuts=([0, 2], [1, 3, -1], [-1, -1]), **columns):
    """The loss, added up over micro-batches, and its metrics."""
    losses, gathered = [], {}
    for rows in cuts:
        loss, metrics = policy_loss(actor_config(config), *micro_batch(rows, **columns))
        losses.append(float(loss))
        for name, metric in metrics.items():
            gathered.setdefault(name, Metric(metric.aggregation)).append(metric)
    return sum(losses), {name: float(metric.aggregate()) for name, metric in gathered.items()}


@pytest.mark.parametrize("name", TOKEN_LOSSES)
def test_each_loss_equals_numpys(name):
    config = settings({"policy_loss": {"loss_mode": name, **LOSS_SETTINGS.get(name, {})}})
    cuts = ([0, 1, 2, 3],) if name in OF_WHOLE_MICRO_BATCHES else ([0, 2], [1, 3, -1], [-1, -1])
    mean = MEANS["seq-mean-token-mean" if name == "sapo" else "token-mean"]  # SAPO is of sequences whatever is written
    assert loss_of(config, cuts)[0] == pytest.approx(mean(TOKEN_LOSSES[name]()), abs=1e-5)
    if name not in OF_WHOLE_MICRO_BATCHES:
        weighted = mean(TOKEN_LOSSES[name]() * WEIGHTS)
        assert loss_of(config, cuts, rollout_is_weights=WEIGHTS)[0] == pytest.approx(weighted, abs=1e-5)


def test_the_geometric_mean_is_one_over_all_sequences():
    config = settings({"policy_loss": {"loss_mode": "geo_mean"}})
    assert loss_of(config)[0] == pytest.approx(geo_mean(), abs=1e-5)


def test_every_name_of_verls_is_offered():
    assert {*LOSSES, "bypass_mode"} == set(POLICY_LOSS_REGISTRY)
    assert {*TOKEN_LOSSES, "geo_mean"} == set(LOSSES)
    assert set(REJECTIONS) == SUPPORTED_ROLLOUT_RS_OPTIONS
    assert set(MEANS) == set(AGGREGATIONS)


@pytest.mark.parametrize("mode", MEANS)
def test_each_way_of_averaging_counts_real_sequences(mode):
    config = settings({"loss_agg_mode": mode, "loss_scale_factor": 20})
    assert loss_of(config)[0] == pytest.approx(MEANS[mode](vanilla()), abs=1e-5)


@pytest.mark.parametrize("kind", DIVERGENCES)
def test_a_divergence_from_the_reference_is_added(kind):
    difference = NEW - REFERENCE
    k3 = np.exp(-difference) + difference - 1
    penalty = {"kl": difference, "k1": difference, "abs": abs(difference), "mse": difference**2 / 2, "k2": difference**2 / 2}.get(
        kind, k3
    )
    config = settings({"use_kl_loss": True, "kl_loss_coef": 0.5, "kl_loss_type": kind})
    loss, metrics = loss_of(config, ref_log_prob=REFERENCE)
    assert loss == pytest.approx(vanilla()[MASK].mean() + 0.5 * penalty[MASK].mean(), abs=1e-5)
    assert metrics["actor/kl_loss"] == pytest.approx(penalty[MASK].mean(), abs=1e-5)
    assert metrics["actor/kl_coef"] == 0.5
    assert kl_penalty_forward(torch.zeros(1), torch.zeros(1), kind) == 0


def test_entropy_is_rewarded_and_metrics_are_means_over_all_tokens():
    entropy = RNG.uniform(0, 2, MASK.shape)
    loss, metrics = loss_of(settings(entropy_coefficient=0.1), entropy=entropy)
    assert loss == pytest.approx(vanilla()[MASK].mean() - 0.1 * entropy[MASK].mean(), abs=1e-5)
    assert metrics["actor/entropy_loss"] == pytest.approx(entropy[MASK].mean(), abs=1e-5)
    assert metrics["actor/ppo_kl"] == pytest.approx((OLD - NEW)[MASK].mean(), abs=1e-5)
    cut = (clipped(RATIO) > -A * RATIO)[MASK].mean()
    assert metrics["actor/pg_clipfrac"] == pytest.approx(cut, abs=1e-5)


CORRECTIONS = {
    "token": ({"rollout_is": "token", "rollout_is_threshold": 1.2}, lambda: RATIO.clip(max=1.2)),
    "token, both bounds": (
        {"rollout_is": "token", "rollout_is_threshold": "0.8_1.2"},
        lambda: np.where((RATIO >= 0.8) & (RATIO <= 1.2), RATIO, 0),
    ),
    "sequence": (
        {"rollout_is": "sequence", "rollout_is_threshold": 1.5},
        lambda: np.exp(((NEW - OLD) * MASK).sum(axis=1))[:, None].clip(max=1.5) * np.ones(MASK.shape),
    ),
    "normalised": (
        {"rollout_is": "token", "rollout_is_threshold": 1.2, "rollout_is_batch_normalize": True},
        lambda: RATIO.clip(max=1.2) / RATIO.clip(max=1.2)[MASK].mean(),
    ),
}


def tensors(*arrays):
    return [torch.tensor(np.where(MASK, array, -np.inf), dtype=torch.float32) for array in arrays]


@pytest.mark.parametrize("name", CORRECTIONS)
def test_importance_weights_are_numpys(name):
    given, expected = CORRECTIONS[name]
    config = settings(algorithm={"rollout_correction": given})
    weights, mask, metrics = correct(config, *tensors(NEW, OLD), torch.from_numpy(MASK))
    np.testing.assert_allclose(weights.numpy()[MASK], expected()[MASK], atol=1e-5)
    assert (mask.numpy() == MASK).all() and corrects(config) and not bypasses(config)
    assert metrics["rollout_corr/kl"] == pytest.approx((OLD - NEW)[MASK].mean(), abs=1e-5)


def test_tokens_and_sequences_are_rejected():
    for rejection, threshold, kept in (
        ("token_k1", "0.8_1.25", MASK & (RATIO >= 0.8) & (RATIO <= 1.25)),
        ("seq_mean_k1", "0.9_1.1", MASK & (abs(((NEW - OLD) * MASK).sum(axis=1) / TOKENS) <= np.log(1.1))[:, None]),
    ):
        config = settings(algorithm={"rollout_correction": {"rollout_rs": rejection, "rollout_rs_threshold": threshold}})
        weights, mask, _ = correct(config, *tensors(NEW, OLD), torch.from_numpy(MASK))
        assert weights is None
        assert (mask.numpy() == kept).all(), rejection


def test_rows_without_a_trained_token_need_no_correction():
    config = settings(algorithm={"rollout_correction": {"rollout_is": "token"}})
    weights, mask, metrics = correct(config, *tensors(NEW, OLD), torch.zeros(MASK.shape))
    assert not weights.any() and not mask.any() and not metrics
    assert not corrects(settings())


@pytest.mark.parametrize(
    "correction",
    [
        {"rollout_is": "token", "rollout_is_threshold": 1.2, "rollout_rs": "seq_mean_k1", "rollout_rs_threshold": "0.9_1.1"},
        {"rollout_is": "sequence", "rollout_is_threshold": 1.5, "rollout_rs": "token_k1", "rollout_rs_threshold": "0.8_1.25"},
    ],
)
def test_figures_of_the_correction_do_not_depend_on_filler_or_on_ranks(monkeypatch, correction):
    config = settings(algorithm={"rollout_correction": correction})
    old, sampler = tensors(NEW, OLD)
    arrays = [old, sampler.double(), torch.from_numpy(MASK)]  # another type than the mask's
    weights, kept, figures = correct(config, *arrays)
    ranks = []
    for rows in ([0], [1, 2, 3]):
        of_rank = [torch.cat([torch.zeros_like(array[:2]), array[rows]]) for array in arrays]
        of_rank_weights, of_rank_kept, metrics = correct(config, *of_rank)
        assert (of_rank_weights[2:] == weights[rows]).all() and (of_rank_kept[2:] == kept[rows]).all()
        assert not of_rank_weights[:2].any() and not of_rank_kept[:2].any()
        ranks.append((metrics, of_rank[-1]))
    ranks.append(({}, torch.zeros(2, WIDTH)))  # a rank of filler alone has nothing to say
    sizes = [(metrics, float(mask.sum()), float(mask.any(dim=1).sum())) for metrics, mask in ranks]
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda group: len(sizes))
    monkeypatch.setattr(torch.distributed, "all_gather_object", lambda found, own, group: found.__setitem__(slice(None), sizes))
    together = over_ranks(config, *ranks[0], None)
    no_means = ("_std", "_eff_sample_size")  # of ranks they are averaged all the same
    means = {name: value for name, value in figures.items() if not name.endswith(no_means)}
    assert len(means) > 30
    assert {name: together[name] for name in means} == pytest.approx(means, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(("kind", "expected"), [("ppo_clip", vanilla), ("reinforce", lambda: -A * NEW * RATIO.clip(max=1.2))])
def test_in_bypass_mode_the_sampler_is_the_old_policy(kind, expected):
    correction = {"bypass_mode": True, "loss_type": kind, "rollout_is": "token", "rollout_is_threshold": 1.2}
    config = settings(algorithm={"rollout_correction": correction})
    assert bypasses(config) and not corrects(config)
    loss, metrics = loss_of(config)
    assert loss == pytest.approx(expected()[MASK].mean(), abs=1e-5)
    assert metrics["rollout_corr/kl"] == pytest.approx((OLD - NEW)[MASK].mean(), abs=1e-5)
    filled = loss_of(config, ([0, 1, 2, 3, -1],))[1]["rollout_corr/training_log_ppl"]
    assert filled == pytest.approx((-(NEW * MASK).sum(axis=1) / TOKENS).mean(), abs=1e-5)
