"""A cold start learns from a fixed set of verified demonstrations, ends when accuracy stops rising, and keeps the best weights"""

import itertools
from dataclasses import replace
from types import SimpleNamespace

import pytest
from scripted import episode, metrics, settings, start

from envs.errors import FleetError
from learner.cold_start import Measurements, SupervisedSteps, _stopped_rising, run_cold_start, run_control
from learner.experiment import ColdStartConfig, Loss, Plateau, Stage


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
    assert _stopped_rising(accuracies, patience=2, min_gain=0.01) is stopped


def test_it_ends_when_accuracy_stops_rising_with_the_best_weights(config):
    training = start(config, rising_to(3))
    run_cold_start(training, SupervisedSteps(training))
    assert training.global_step == 3 + config.cold_start.patience
    assert training.trainer.steps == 3
    assert training.directory.checkpoints.state("cold_start")["step"] == 3
    assert training.said == ["cold start: best held-out accuracy 100.0% (perception 100.0% of 10) after 3 steps of 5"]


def measured(*accuracies):
    """Measurements of two abilities, 64 episodes of each, given as percent."""
    found = Measurements()
    for step, each in enumerate(accuracies):
        counts = {name: (round(0.64 * percent), 64) for name, percent in zip("ab", each, strict=True)}
        found.overall.append((step, sum(right for right, _ in counts.values()) / 128))
        found.by_ability.append(counts)
    return found


RISING = ((80, 10), (82, 30), (79, 50))
NOISY = ((80, 50), (79, 50), (82, 54))
SHIFTING = ((90, 10), (80, 20), (70, 30))


@pytest.mark.parametrize(
    ("accuracies", "plateau", "stopped", "best"),
    [
        (RISING, "ability", False, 2),
        (NOISY, "ability", True, 2),
        (NOISY, "overall", False, 2),
        (SHIFTING, "overall", True, 0),
        (SHIFTING, "ability", False, 0),
        ((), "ability", False, None),
        (((80, 10),), "ability", False, 0),
    ],
)
def test_by_ability_it_goes_on_while_one_of_them_rises_by_more_than_chance(accuracies, plateau, stopped, best):
    found, rule = measured(*accuracies), ColdStartConfig(patience=2, min_gain=0.01, plateau=Plateau(plateau))
    assert found.stopped_rising(rule) is stopped
    assert best is None or found.best(rule.plateau) == best


def test_the_best_by_ability_is_best_in_the_mean_over_abilities():
    found = Measurements([(1, 0.8), (2, 0.7)], [{"a": (90, 100), "b": (1, 10)}, {"a": (70, 100), "b": (8, 10)}])
    assert (found.best(Plateau.overall), found.best(Plateau.ability)) == (1, 2)


def test_a_cold_start_of_an_earlier_version_is_gone_on_with():
    found = Measurements.of({"history": [[60, 0.5], [120, 0.5], [180, 0.5]]})
    assert found.stopped_rising(ColdStartConfig(plateau=Plateau.ability))
    assert found.told(60) == "50.0%"


@pytest.mark.parametrize(("loss", "asked"), [(Loss.token, {}), (Loss.sequence, {"per_sequence": True})])
def test_the_loss_per_sequence_is_asked_for_only_if_it_is_set(config, loss, asked):
    training, given = start(with_cold_start(config, loss=loss)), []
    training.trainer.supervised_step = lambda batch, lr, **how: given.append(how) or {"train/loss": 0.0}
    SupervisedSteps(training).take(Stage.cold_start, 0)
    assert given == [asked]


def test_a_measurement_without_any_outcome_ends_the_run_with_its_reason(config):
    training = start(config, lambda spec, steps: episode(spec, error=None if spec.actor == "expert" else "no machine left"))
    with pytest.raises(FleetError, match="cold start step 1: no held-out episode has an outcome; the last one: no machine left"):
        run_cold_start(training, SupervisedSteps(training))
    assert not training.directory.checkpoints.names()


def test_it_is_said_once_that_tasks_without_abilities_have_no_plateau_by_ability(config):
    play = rising_to(3)

    def nameless(spec, steps):
        played = play(spec, steps)
        return replace(played, chains=tuple(replace(chain, abilities=()) for chain in played.chains))

    training = start(with_cold_start(config, plateau=Plateau.ability), nameless)
    run_cold_start(training, SupervisedSteps(training))
    said = "cold_start.plateau=ability: the held-out tasks name no abilities, so accuracy over all decides"
    assert training.said == [said, "cold start: best held-out accuracy 100.0% after 3 steps of 5"]


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
