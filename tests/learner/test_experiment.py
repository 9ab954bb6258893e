"""Settings that contradict each other are answered in one line that says what to write, before anything is done."""

from contextlib import nullcontext
from dataclasses import replace

import pytest
from omegaconf import OmegaConf
from scripted import settings

from envs.errors import UsageError
from learner.config import LearnerConfig, Precision, VerlSettings
from learner.experiment import (
    AlarmAction,
    AlarmConfig,
    ColdStartConfig,
    DemonstrationSource,
    Experiment,
    RLConfig,
    Stage,
    TrackingConfig,
)
from learner.verl.configuration.passthrough import check_reward_keys
from rollout.config import EngineConfig, EpisodeConfig, RolloutConfig
from rollout.episode.environments import make


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
        ("cold_start", "patience"),
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
    ("part", "values", "remedy"),
    [
        (TrackingConfig, {"mode": "off"}, "tracking.mode=off: write online, offline, disabled or null"),
        (TrackingConfig, {"table_every": 0}, "tracking.table_every=0: write 1 or more, or tracking.table_every=null"),
        (TrackingConfig, {"table_episodes": 0}, "tracking.table_episodes=0: write 1 or more"),
        (TrackingConfig, {"finish_s": 0.0}, "tracking.finish_s=0: write seconds"),
        (AlarmConfig, {"learning_rate_factor": 2.0}, "alarm.learning_rate_factor=2: write more than 0 and at most 1"),
        (AlarmConfig, {"max_rollbacks": -1}, "alarm.max_rollbacks=-1: write 0 or more"),
        (
            AlarmConfig,
            {"after_rollbacks": AlarmAction.rollback},
            "alarm.after_rollbacks=rollback: write warn or stop, or a larger alarm.max_rollbacks",
        ),
    ],
)
def test_values_of_tracking_and_of_the_alarm_make_sense(part, values, remedy):
    with pytest.raises(UsageError, match=remedy):
        Experiment(**{{TrackingConfig: "tracking", AlarmConfig: "alarm"}[part]: part(**values)}).check()


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


def test_greedy_episodes_have_nothing_to_be_compared_with(tmp_path):
    with pytest.raises(UsageError, match="all episodes of a task would be alike"):
        replace(settings(tmp_path), rl=RLConfig(temperature=0.0)).check()


def test_a_group_of_one_has_nothing_to_be_compared_with(tmp_path):
    alone = replace(settings(tmp_path), rl=RLConfig(group_size=1))
    with pytest.raises(UsageError, match=r"rl.group_size=1: .* write 2 or more, or \+learner.verl.algorithm.adv_estimator=reinf"):
        alone.check()
    whitened = LearnerConfig(verl=VerlSettings(algorithm={"adv_estimator": "reinforce_plus_plus"}))
    replace(alone, learner=whitened).check()
    with_baseline = LearnerConfig(verl=VerlSettings(algorithm={"adv_estimator": "reinforce_plus_plus_baseline"}))
    with pytest.raises(UsageError, match=r"rl.group_size=1"):
        replace(alone, learner=with_baseline).check()


@pytest.mark.parametrize(
    ("reward", "keys", "refused"),
    [
        (None, ["accuracy", "format"], None),
        (None, ["accuracy", "fromat"], "the reward has no part fromat: did you mean format"),
        ([{"accuracy": 0.8}, {"necessity": 0.2}], ["accuracy", "necessity"], None),
        ("accuracy", ["speed"], "the reward has no part speed: its parts are accuracy, judge_no_verdict, rubric_score"),
        ([{"accuracy": 0.8}, {lambda outcome: 0.0: 0.2}], ["speed"], None),
    ],
)
def test_the_parts_that_gdpo_compares_are_looked_up_before_anything_starts(reward, keys, refused):
    """A function of one's own may return parts of its own, so with one nothing is known before."""
    env = make("toolwise/Reasoning-v0", {"reward": reward})
    learner = LearnerConfig(verl=VerlSettings(algorithm={"adv_estimator": "gdpo", "gdpo_reward_keys": keys}))
    with pytest.raises(UsageError, match=refused) if refused else nullcontext():
        check_reward_keys(learner, env.unwrapped.reward_part_names)
    env.close()


def test_a_reward_that_compares_a_group_needs_one(tmp_path):
    whitened = LearnerConfig(verl=VerlSettings(algorithm={"adv_estimator": "reinforce_plus_plus"}))
    reward = {"reward": [{"accuracy": 0.8}, {"necessity": 0.2}]}
    config = replace(settings(tmp_path), rl=RLConfig(group_size=1), learner=whitened, options=reward)
    with pytest.raises(UsageError, match=r"rl.group_size=1: a part of the reward compares .*: write 2 or more"):
        config.check()


def test_a_file_of_questions_has_no_expert_to_learn_from(tmp_path):
    tasks, file = tmp_path / "q.jsonl", tmp_path / "sft.json"
    tasks.write_text("{}\n")
    file.write_text("[]")
    with pytest.raises(UsageError, match=r"no scripted expert .* cold_start\.demonstrations_file=FILE, .* or stages=\[rl\]"):
        Experiment(tasks=str(tasks)).check()
    mixed = ColdStartConfig(sources=[DemonstrationSource(str(file)), DemonstrationSource("expert")])
    with pytest.raises(UsageError, match="no scripted expert"):
        Experiment(tasks=str(tasks), cold_start=mixed).check()
    Experiment(tasks=str(tasks), cold_start=ColdStartConfig(demonstrations_file=str(file))).check()
    Experiment(tasks=str(tasks), stages=[Stage.rl]).check()
