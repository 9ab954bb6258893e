"""A cold start learns from a fixed set of verified demonstrations, ends when accuracy stops rising, and keeps the best weights"""

import itertools
from dataclasses import replace
from types import SimpleNamespace

import pytest
from scripted import episode, metrics, settings, start

from envs.errors import UsageError
from learner.cold_start import (
    ATTEMPTS_PER_DEMONSTRATION,
    SupervisedSteps,
    _stopped_rising,
    collect_demonstrations,
    collect_rehearsal,
    run_cold_start,
    run_control,
)
from learner.experiment import Stage


def with_cold_start(config, **changes):
    return replace(config, cold_start=replace(config.cold_start, **changes))


def rising_to(best_steps):
    """Plays experts well, and held-out tasks the better the nearer the served weights are to `best_steps` steps."""

    def play(spec, steps):
        correct = spec.actor == "expert" or int(spec.group_id.rpartition("-")[2]) < 10 - abs(best_steps - steps)
        return episode(spec, correct=correct)

    return play


@pytest.fixture
def config(tmp_path):
    return with_cold_start(settings(tmp_path / "run"), max_steps=20, evaluate_every=1, validation_episodes=10, min_gain=0.05)


@pytest.mark.parametrize(
    ("accuracies", "stopped"),
    [([], False), ([0.5], False), ([0.5, 0.5, 0.5], True), ([0.5, 0.6, 0.6], False), ([0.5, 0.6, 0.6, 0.605], True)],
)
def test_accuracy_has_stopped_rising_after_two_measurements_without_a_gain(accuracies, stopped):
    history = [(60 * (index + 1), accuracy) for index, accuracy in enumerate(accuracies)]
    assert _stopped_rising(history, patience=2, min_gain=0.01) is stopped


def test_it_ends_when_accuracy_stops_rising_with_the_best_weights(config):
    training = start(config, rising_to(3))
    run_cold_start(training, SupervisedSteps(training))
    assert training.global_step == 3 + config.cold_start.patience
    assert training.trainer.steps == 3
    assert training.directory.checkpoints.state("cold_start")["step"] == 3
    assert training.said == ["cold start: best held-out accuracy 100.0% after 3 steps of 5"]


def test_it_ends_after_its_most_steps_even_if_accuracy_still_rises(config):
    training = start(with_cold_start(config, max_steps=5, evaluate_every=2), rising_to(9))
    run_cold_start(training, SupervisedSteps(training))
    history = training.directory.checkpoints.state("cold_start")["history"]
    assert [step for step, _ in history] == [2, 4, 5]


def test_held_out_tasks_are_played_with_the_newest_weights(config):
    training = start(config, rising_to(3))
    run_cold_start(training, SupervisedSteps(training))
    assert training.fleet.published == [(step, step) for step in range(1, 6)]


def test_the_best_checkpoint_and_the_newest_are_kept(config):
    training = start(config, rising_to(2))
    run_cold_start(training, SupervisedSteps(training))
    names = set(training.directory.checkpoints.names())
    assert names == {"cold_start", "cold_start_2", "cold_start_3", "cold_start_4"}


def test_a_killed_cold_start_goes_on_from_its_newest_checkpoint(config):
    killed = start(with_cold_start(config, max_steps=2), rising_to(3))
    steps = SupervisedSteps(killed)
    run_cold_start(killed, steps)
    steps.take(Stage.cold_start, 2)
    resumed = start(replace(config, resume=True), rising_to(3))
    run_cold_start(resumed, SupervisedSteps(resumed))
    assert resumed.trainer.calls == ["load cold_start_2", *["supervised_step"] * 3, "load cold_start_3"]
    assert [line["step"] for line in metrics(resumed)] == [0, 1, 2, 3, 4]
    assert [line["global_step"] for line in metrics(resumed)] == [0, 1, 2, 3, 4]


def test_the_learning_rate_rises_from_zero(config):
    training = start(with_cold_start(config, warmup_steps=4, learning_rate=1.0, max_steps=6))
    steps = SupervisedSteps(training)
    assert [steps.take(Stage.cold_start, step)["train/lr"] for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_a_step_draws_the_same_batch_whenever_it_is_run(config):
    training = start(config)
    for _ in range(2):
        steps = SupervisedSteps(training)
        for step in range(3):
            steps.take(Stage.cold_start, step)
    batches = [batch.group_ids_E for batch in training.trainer.supervised_batches]
    assert batches[:3] == batches[3:]
    assert all(len(batch) == config.cold_start.batch_size + config.cold_start.rehearsal_batch_size for batch in batches)


def test_only_verified_demonstrations_are_kept_and_the_missing_ones_asked_for_again(config):
    def play(spec, steps):
        number = int(spec.group_id.rpartition("-")[2])
        return episode(spec, correct=number != 0, called=number == 1, tool_status="error")

    training = start(config, play)
    demonstrations = collect_demonstrations(training)
    assert [demonstration.trajectory.group_id for demonstration in demonstrations] == [
        "demonstrations-0-2",
        "demonstrations-0-3",
        "demonstrations-1-2",
        "demonstrations-1-3",
    ]
    assert {(spec.actor, spec.env_kwargs["split"]) for specs in training.fleet.collected for spec in specs} == {("expert", "train")}


def test_demonstrations_are_made_once(config):
    first = start(config)
    demonstrations, rehearsal = collect_demonstrations(first), collect_rehearsal(first)
    resumed = start(replace(config, resume=True))
    assert collect_demonstrations(resumed) == demonstrations
    assert collect_rehearsal(resumed) == rehearsal
    assert resumed.fleet.collected == []


def test_an_expert_that_is_never_right_is_answered_in_one_line(config):
    training = start(config, lambda spec, steps: episode(spec, correct=False))
    with pytest.raises(UsageError, match=r"0 verified demonstrations of 4: lower cold_start.demonstrations"):
        collect_demonstrations(training)
    assert len(training.fleet.collected) == ATTEMPTS_PER_DEMONSTRATION
    assert training.store.names() == []


def test_rehearsal_without_a_verified_episode_is_answered_in_one_line(config):
    training = start(config, lambda spec, steps: episode(spec, correct=False))
    with pytest.raises(UsageError, match=r"cold_start.rehearsal_tasks=toolwise/Basics-v0 was right: write null for none"):
        collect_rehearsal(training)


@pytest.mark.parametrize("changes", [{"rehearsal_tasks": None}, {"rehearsal_batch_size": 0}])
def test_rehearsal_may_be_left_out(config, changes):
    training = start(with_cold_start(config, **changes))
    assert collect_rehearsal(training) == []
    assert training.fleet.collected == []


def test_the_control_goes_on_with_the_cold_start_on_the_same_demonstrations(config, monkeypatch):
    training = start(config, rising_to(3))
    run_cold_start(training, SupervisedSteps(training))
    training.finish("cold_start")
    training.trainer.calls.clear()
    # A clock that advances by 1 s whenever it is read: once before each step, twice during it.
    monkeypatch.setattr("learner.cold_start.time", SimpleNamespace(monotonic=itertools.count().__next__))
    run_control(training, SupervisedSteps(training), seconds=10)
    lines = [line for line in metrics(training) if line["stage"] == "control"]
    assert len(lines) == 3, "they begin at 1, 4 and 7 s"
    assert [line["step"] for line in lines] == list(range(3, 3 + len(lines)))
    assert lines[0]["global_step"] == 5
    assert training.trainer.calls == ["load cold_start", *["supervised_step"] * len(lines)]
    demonstrations = {one.trajectory.group_id for one in training.store.read("demonstrations")}
    rehearsal = {one.trajectory.group_id for one in training.store.read("rehearsal")}
    assert {name for batch in training.trainer.supervised_batches for name in batch.group_ids_E} <= demonstrations | rehearsal
    assert training.fleet.published[-1] == (5 + len(lines), 3 + len(lines))
    assert training.directory.checkpoints.state("control")["step"] == 3 + len(lines)
