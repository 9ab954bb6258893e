"""Each algorithm's experiment takes two steps through the real trainer on CPU, and options of verl's do what they say."""

from dataclasses import replace

import numpy as np
import pytest
import ray

from configs import compose
from learner.batch import Batch
from learner.config import LearnerConfig, VerlSettings
from learner.experiment import Experiment
from learner.verl.trainer import VerlTrainer

LR = 1e-3
EXPERIMENTS = ("grpo", "dapo", "rloo", "reinforce_pp", "gspo")


@pytest.fixture(scope="module")
def cluster():
    ours = not ray.is_initialized()
    if ours:
        ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
    yield
    if ours:
        ray.shutdown()


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
def batch(make_episode, picture):
    """Eight episodes of two groups, half of them right, the last without a picture."""
    return Batch.of_episodes(
        make_episode([picture(seed // 4)] if seed < 7 else [], seed, group=f"group-{seed // 4}", reward=seed % 2)
        for seed in range(8)
    )


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
def test_an_experiment_takes_two_steps(start, batch, experiment):
    config = compose("train", Experiment, [f"experiment={experiment}"])
    config.check()
    trainer = start(config.learner)
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


def test_the_samplers_distance_is_corrected(start, batch):
    """Importance weights of a sampler that gave each token a third of the learner's probability, cut off at 2."""
    correction = {"rollout_is": "token", "rollout_is_threshold": 2.0}
    trainer = start(LearnerConfig(verl=VerlSettings(algorithm={"rollout_correction": correction})))
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
