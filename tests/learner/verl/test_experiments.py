"""Each algorithm's experiment takes two steps through the real trainer on CPU, and options of verl's do what they say."""

from copy import copy
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import ray
import torch
from safetensors.torch import load_file

from configs import compose
from envs.errors import FleetError, UsageError
from learner.batch import Batch
from learner.config import LearnerConfig, VerlSettings
from learner.experiment import Experiment
from learner.verl.trainer import VerlTrainer

LR = 1e-3
EXPERIMENTS = ("grpo", "dapo", "rloo", "reinforce_pp", "gspo")


@pytest.fixture
def start(cluster, policy_dir):
    """Starts a trainer with a configuration; ends it after the test."""
    started = []

    def make(config, **arguments):
        started.append(VerlTrainer(policy_dir, replace(config, threads_per_worker=1), **arguments))
        started[-1].refer_to(str(policy_dir))
        return started[-1]

    yield make
    for trainer in started:
        trainer.shutdown()


@pytest.fixture(scope="module")
def made_once(cluster, policy_dir):
    trainer = VerlTrainer(policy_dir, LearnerConfig(threads_per_worker=1))
    yield trainer
    trainer.shutdown()


@pytest.fixture
def begin(made_once, policy_dir):
    """A trainer of one rank with a configuration, in the process of the test before, which has imported verl already."""

    def make(config):
        trainer = copy(made_once)
        trainer.config, trainer._sent = replace(config, threads_per_worker=1), None

        def begin_anew(worker, config=trainer.config):
            from learner.verl.worker import LearnerWorker

            LearnerWorker.__init__(worker, policy_dir=str(policy_dir), config=config, seed=0, banned_token_ids=[])

        ray.get([worker.__ray_call__.remote(begin_anew) for worker in trainer._group.workers])
        trainer._on_ranks("data_parallel_size")
        trainer.refer_to(str(policy_dir))
        return trainer

    return make


@pytest.fixture(scope="module")
def batch(make_episode, picture):
    """Eight episodes of two groups, half of them right, the last without a picture."""
    return Batch.of_episodes(
        make_episode([picture(seed // 4)] if seed < 7 else [], seed, group=f"group-{seed // 4}", reward=seed % 2)
        for seed in range(8)
    )


def test_a_rank_that_cannot_be_made_says_why_as_it_would_here(begin):
    with pytest.raises(UsageError, match="write true, the learner always packs sequences") as raised:
        begin(LearnerConfig(verl=VerlSettings(model={"use_remove_padding": False})))
    assert "Traceback" not in str(raised.value)


def test_a_gpu_that_is_full_is_one_line(begin, monkeypatch):
    trainer = begin(LearnerConfig(micro_batch_tokens=999))
    (rank,) = trainer.actors

    def fill(worker):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of …")

    monkeypatch.setattr(trainer, "_group", SimpleNamespace(infer=lambda: ray.get(rank.__ray_call__.remote(fill))))
    with pytest.raises(FleetError, match=r"GPU is full: .*Tried to allocate 2.00 GiB: lower learner.micro_batch_tokens=999"):
        trainer._on_ranks("infer")


def sampled_by(trainer, batch):
    """The batch as the trainer's policy would have sampled it."""
    log_probs, _ = trainer.log_probs(batch)
    parts = np.split(log_probs, batch.lengths_N.cumsum()[:-1])
    return Batch.of(
        [
            replace(example, sequences=replace(example.sequences, logprobs_S=part))
            for example, part in zip(batch.examples_E, parts, strict=True)
        ]
    )


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_an_experiment_takes_two_steps(begin, batch, experiment):
    config = compose("train", Experiment, [f"experiment={experiment}"])
    config.check()
    trainer = begin(config.learner)
    batch = sampled_by(trainer, batch)
    before = trainer.state_dict()
    first, second = (trainer.policy_step(batch, trainer.advantages(batch), LR) for _ in range(2))
    assert any((weight != before[name]).any() for name, weight in trainer.state_dict().items())
    for metrics in (first, second):
        assert np.isfinite(list(metrics.values())).all()
        assert metrics["actor/grad_norm"] > 0
    if experiment == "grpo":
        assert first["actor/kl_loss"] == pytest.approx(0, abs=1e-5) and second["actor/kl_loss"] > 1e-4
    if experiment in ("rloo", "reinforce_pp"):
        assert first["actor/reward_kl_penalty"] == pytest.approx(0, abs=1e-5) and second["actor/reward_kl_penalty"] != 0
    if experiment == "gspo":
        assert first["actor/pg_clipfrac"] > 0  # from its second mini-batch on


def test_the_samplers_distance_is_corrected(begin, batch):
    """Importance weights of a sampler that gave each token a third of the learner's probability, cut off at 2."""
    correction = {"rollout_is": "token", "rollout_is_threshold": 2.0}
    trainer = begin(LearnerConfig(verl=VerlSettings(algorithm={"rollout_correction": correction})))
    near = sampled_by(trainer, batch)
    far = Batch.of(
        [
            replace(example, sequences=replace(example.sequences, logprobs_S=example.sequences.logprobs_S - np.log(3)))
            for example in near.examples_E
        ]
    )
    advantages = trainer.advantages(batch)
    on_policy, corrected = (trainer.policy_step(part, advantages, 0.0) for part in (near, far))
    assert corrected["rollout_corr/rollout_is_mean"] == pytest.approx(2.0, abs=1e-4)
    assert corrected["actor/grad_norm"] == pytest.approx(2 * on_policy["actor/grad_norm"], rel=1e-3)
    assert corrected["rollout/logprob_gap"] == pytest.approx(np.log(3), abs=1e-4)


def options(**verl):
    return LearnerConfig(verl=VerlSettings(**verl))


@pytest.mark.slow
def test_offloaded_weights_and_moments_learn_the_same(start, batch):
    plain, offloaded = start(options()), start(options(engine={"param_offload": True, "optimizer_offload": True}))
    for trainer in plain, offloaded:
        for _ in range(2):
            trainer.supervised_step(batch, LR)
    np.testing.assert_allclose(offloaded.log_probs(batch)[0], plain.log_probs(batch)[0], atol=1e-5)


@pytest.mark.slow
def test_another_optimizer_steps(start, batch):
    """Plain gradient descent moves the weights by the learning rate times the clipped gradient, whose norm is then 1."""
    trainer = start(options(optimizer={"optimizer": "SGD", "override_optimizer_config": {"weight_decay": 0.0}}))
    before = trainer.state_dict()
    assert trainer.supervised_step(batch, LR)["train/grad_norm"] > 1
    moved = sum(float((weight - before[name]).double().square().sum()) for name, weight in trainer.state_dict().items())
    assert np.sqrt(moved) == pytest.approx(LR, rel=1e-3)


@pytest.mark.slow
def test_an_adapter_is_trained_merged_and_compared_with_its_base(start, batch, policy_dir, tmp_path):
    """What is published is what the learner computes with, and the reference is the policy without the adapter."""
    trainer = start(
        options(
            model={"lora_rank": 4, "lora_alpha": 8},
            actor={"use_kl_loss": True, "kl_loss_coef": 0.0},
        )
    )
    base, of_base = trainer.state_dict(), trainer.log_probs(batch)[0]
    advantages = trainer.advantages(batch)
    assert trainer.policy_step(batch, advantages, 0.05)["actor/kl_loss"] == pytest.approx(0, abs=1e-6)
    learned, of_learned = trainer.state_dict(), trainer.log_probs(batch)[0]
    original = load_file(policy_dir / "model.safetensors")
    assert base.keys() == learned.keys() == original.keys()
    assert all(torch.equal(weight, original[name]) for name, weight in base.items())
    changed = [name for name, weight in learned.items() if not torch.equal(weight, base[name])]
    assert changed and all(name.endswith("proj.weight") or ".mlp." in name or "qkv" in name for name in changed), changed
    trainer.save(tmp_path, print)
    trainer.finish_saving()
    whole = VerlTrainer(tmp_path / "policy", LearnerConfig(threads_per_worker=1))
    try:
        np.testing.assert_allclose(whole.log_probs(batch)[0], of_learned, atol=1e-4)
    finally:
        whole.shutdown()
    assert np.abs(of_learned - of_base).max() > 0.01
    assert trainer.policy_step(batch, advantages, 0.05)["actor/kl_loss"] > 1e-4
    trainer.load(tmp_path)
    np.testing.assert_allclose(trainer.log_probs(batch)[0], of_learned, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    "verl",
    [
        {"engine": {"fsdp_size": 1}},
        {"model": {"lora_rank": 4, "exclude_modules": ".*visual.*"}},
        {"algorithm": {"adv_estimator": "reinforce_plus_plus", "use_kl_in_reward": True, "gamma": 0.9}},
        {"algorithm": {"rollout_correction": {"rollout_is": "token", "rollout_rs": "token_k1", "rollout_rs_threshold": "0.8_1.2"}}},
        {"actor": {"policy_loss": {"loss_mode": "geo_mean"}}},
        {"actor": {"loss_agg_mode": "seq-mean-token-mean", "use_kl_loss": True}},
    ],
    ids=str,
)
def test_two_ranks_learn_what_one_learns(start, batch, verl):
    found = {}
    for workers in 1, 2:
        trainer = start(replace(LearnerConfig(verl=VerlSettings(**verl)), workers=workers, mini_batches=2))
        sampled = sampled_by(trainer, batch)
        # As if the sampler had been a little off: the correction then has something to do.
        shifted = Batch.of(
            [
                replace(example, sequences=replace(example.sequences, logprobs_S=example.sequences.logprobs_S * 1.1))
                for example in sampled.examples_E
            ]
        )
        found[workers] = [trainer.policy_step(shifted, trainer.advantages(shifted), LR) for _ in range(2)]
        trainer.shutdown()
    for one, two in zip(found[1], found[2], strict=True):
        for name in one.keys() - {"actor/computed_sequences"}:
            if "_max" not in name and "std" not in name and not name.startswith("perf/"):
                assert two[name] == pytest.approx(one[name], rel=2e-2, abs=2e-3), name
