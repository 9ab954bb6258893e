"""The run owns the clock: steps count over all stages, weights are published under that count, and resuming rewinds it."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from scripted import episode, metrics, settings, start

from envs.errors import UsageError
from learner.experiment import HeldOutConfig, Stage
from rollout.config import EngineConfig, RolloutConfig


@pytest.fixture
def training(tmp_path):
    return start(settings(tmp_path / "run"))


def take_steps(training, count, stage=Stage.rl):
    for step in range(count):
        training.count_step()
        training.log(stage, step, {"x": training.global_step})


def test_metrics_carry_the_step_that_was_counted_last(training):
    take_steps(training, 2, Stage.cold_start)
    take_steps(training, 1)
    assert [(line["stage"], line["step"], line["global_step"]) for line in metrics(training)] == [
        ("cold_start", 0, 0),
        ("cold_start", 1, 1),
        ("rl", 0, 2),
    ]


def test_weights_are_published_under_the_number_of_steps(training):
    training.publish()
    take_steps(training, 3)
    training.publish()
    assert [version for version, _ in training.fleet.published] == [0, 3]
    assert training.version == training.global_step == 3


def test_restoring_goes_back_to_the_checkpoints_step_and_weights(training):
    training.trainer.steps = 2
    take_steps(training, 2)
    training.save("step_2", step=2)
    training.trainer.steps = 4
    take_steps(training, 2)
    assert training.restore("step_2") == {"step": 2, "global_step": 2}
    assert (training.global_step, training.trainer.steps) == (2, 2)
    assert training.fleet.published == [(2, 2)]
    assert [line["global_step"] for line in metrics(training)] == [0, 1]


def test_files_of_a_run_that_are_damaged_are_named_with_the_remedy(training):
    (training.directory.path / "evaluation.json").write_text("{")
    with pytest.raises(UsageError, match=r"evaluation.json is damaged .*: remove it"):
        training.records()
    training.save("step_2", step=2)
    Path(training.directory.checkpoints.location("step_2"), "state.json").write_text("")
    with pytest.raises(UsageError, match=r"step_2 cannot be read .*: if it is damaged, remove it, and resume=true"):
        training.restore("step_2")


def test_a_resumed_run_goes_on_from_the_last_finished_stage(training):
    take_steps(training, 2)
    training.finish("cold_start")
    take_steps(training, 3)
    resumed = start(replace(training.config, resume=True))
    assert resumed.global_step == 2
    resumed.begin_stage()
    assert [line["global_step"] for line in metrics(resumed)] == [0, 1]


def test_every_policy_is_measured_on_the_same_tasks(tmp_path):
    first, second = (start(settings(tmp_path / name, seed=seed)) for name, seed in (("a", 0), ("b", 1)))
    for training in (first, second):
        training.sample("test", 3, "test")
    assert first.fleet.collected == second.fleet.collected
    assert {spec.env_kwargs["split"] for spec in first.fleet.collected[0]} == {"test"}


def test_episodes_that_failed_are_told_apart_in_a_sample(tmp_path):
    play = lambda spec, steps: episode(spec, error="gone" if spec.group_id.endswith("-1") else None)  # noqa: E731
    sample = start(settings(tmp_path / "run"), play).sample("test", 3, "test")
    assert [group.group_id for group in sample if group.sound] == ["test-0-0", "test-0-2"]


def test_questions_that_cannot_be_put_end_no_run_in_which_others_were(training):
    """The first sample is refused whole; after the second, which is not, the fleet is told that questions have been put."""
    training.fleet.answer = lambda spec, steps: episode(spec, refused="broken" if spec.env_seed in refused else None)
    refused = range(2**31)
    training.sample("test", 3, "test")
    refused = range(0)
    training.sample("test", 3, "test")
    training.sample("test", 3, "test")
    assert training.fleet.played == [False, False, True]
    training.finish("base")
    assert start(replace(training.config, resume=True))._played


def test_an_evaluation_is_merged_into_the_records(tmp_path):
    training = start(settings(tmp_path / "run", evaluation=HeldOutConfig(episodes=3, temperatures=[1.0, 0.0])))
    training.evaluate("base", "base")
    training.evaluate("rl", "step_3/policy")
    training.evaluate("base", "base")
    records = json.loads((tmp_path / "run/evaluation.json").read_text())
    assert records == [record.to_json() for record in training.records()]
    assert [record["label"] for record in records] == ["base", "base_greedy", "rl", "rl_greedy"]
    assert [(record["policy"], record["temperature"]) for record in records[2:]] == [("step_3/policy", 1.0), ("step_3/policy", 0.0)]


def test_leaving_a_run_closes_what_it_holds(training):
    training.trainer.slow = True
    with training:
        training.save("step_1")
    assert training.directory.checkpoints.names() == ["step_1"]
    assert not training.fleet.open
    assert training.trainer.calls == ["shutdown"]


@pytest.mark.parametrize("stopped", [False, True])
def test_a_checkpoint_that_could_not_be_written_ends_the_run(training, stopped):
    """Unless something else did: then it is said."""

    def fail():
        raise OSError("disk full")

    training.trainer.slow = True
    with pytest.raises(KeyboardInterrupt if stopped else OSError), training:
        training.save("step_1")
        training.trainer.saved = [fail]
        if stopped:
            raise KeyboardInterrupt
    assert training.said == (["the last checkpoint was not written: disk full"] if stopped else [])
    assert training.directory.checkpoints.names() == []
    assert not training.fleet.open


def test_servers_on_the_learners_gpus_are_awake_while_episodes_are_played_alone(tmp_path):
    """What waking them took is a step's if it was that step's episodes that they were woken for."""
    engine = RolloutConfig(engine=EngineConfig(kind="verl"), servers=0)
    training = start(settings(tmp_path / "run", rollout=engine))
    seen = []
    training.trainer.ranks = lambda: "ranks"
    training.fleet.servers = SimpleNamespace(
        update=lambda ranks, version: seen.append((ranks, version)), sleep=lambda: seen.append("asleep")
    )
    training.sample("test", 3, "test")
    training.publish()  # they are given the weights when they wake up
    assert seen == [("ranks", 0), "asleep"]
    assert training.waking_metrics()["timing_s/update_weights"] >= 0
    assert training.waking_metrics() == {}
