"""Settings that contradict each other are answered in one line that says what to write, before anything is done."""

from dataclasses import replace

import pytest
from omegaconf import OmegaConf
from scripted import settings

from envs.errors import UsageError
from learner.config import LearnerConfig, Precision, VerlSettings
from learner.experiment import Experiment, RLConfig, Stage
from rollout.config import EngineConfig, EpisodeConfig, RolloutConfig


def test_the_defaults_are_in_order():
    Experiment().check()


def test_a_control_needs_a_cold_start_and_rl():
    with pytest.raises(UsageError, match=r"write stages=\[cold_start,rl,control\]"):
        Experiment(stages=[Stage.rl, Stage.control]).check()


def test_a_control_may_follow_stages_that_are_finished():
    Experiment(stages=[Stage.control]).check(finished=["base", "cold_start", "rl"])


def test_an_episode_must_fit_into_the_engines_context():
    with pytest.raises(
        UsageError, match=r"rollout.episode.max_tokens=9000 is more than rollout.engine.max_model_len=4096: lower it"
    ):
        Experiment(rollout=RolloutConfig(episode=EpisodeConfig(max_tokens=9000))).check()


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ("evaluation", "episodes"),
        ("cold_start", "evaluate_every"),
        ("rl", "groups"),
        ("rl", "group_size"),
        ("rl", "checkpoint_every"),
        ("rl", "keep_checkpoints"),
    ],
)
def test_counts_are_at_least_one(tmp_path, part, name):
    config = settings(tmp_path)
    config = replace(config, **{part: replace(getattr(config, part), **{name: 0})})
    with pytest.raises(UsageError, match=f"{part}.{name}=0: write 1 or more"):
        config.check()


@pytest.mark.parametrize(
    "impossible", [{"gpus_per_worker": 2}, {"gpus_per_worker": 0.5, "workers": 2}, {"workers": 0}, {"workers": 3, "nodes": 2}]
)
def test_impossible_workers_are_answered(impossible):
    with pytest.raises(UsageError, match=f"learner.{next(iter(impossible))}="):
        Experiment(learner=LearnerConfig(**impossible)).check()


@pytest.mark.parametrize(
    ("servers", "across", "learner", "remedy"),
    [
        (1, 1, {"kind": "scripted:ScriptedTrainer"}, "has no ranks"),
        (0, 1, {}, "write learner.gpus_per_worker=1"),
        (0, 2, {"gpus_per_worker": 1, "workers": 3}, "learner.workers as a multiple of 2"),
    ],
)
def test_servers_that_the_learner_cannot_feed_are_answered(servers, across, learner, remedy):
    rollout = RolloutConfig(engine=EngineConfig(kind="verl", tensor_parallel_size=across), servers=servers)
    with pytest.raises(UsageError, match=remedy):
        Experiment(rollout=rollout, learner=LearnerConfig(**learner)).check()


def test_the_learners_settings_are_a_structured_config():
    config = OmegaConf.merge(OmegaConf.structured(LearnerConfig), {"precision": "bfloat16", "workers": 2})
    assert OmegaConf.to_object(config) == LearnerConfig(precision=Precision.bfloat16, workers=2)


def test_a_group_of_one_has_nothing_to_be_compared_with(tmp_path):
    alone = replace(settings(tmp_path), rl=RLConfig(group_size=1))
    with pytest.raises(UsageError, match=r"rl.group_size=1: .* write 2 or more, or \+learner.verl.algorithm.adv_estimator=reinf"):
        alone.check()
    whitened = LearnerConfig(verl=VerlSettings(algorithm={"adv_estimator": "reinforce_plus_plus"}))
    replace(alone, learner=whitened).check()
