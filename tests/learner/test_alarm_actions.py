"""When the collapse alarm begins to ring it is said once, RL stops, or goes back to the last checkpoint before the fall and learns
more slowly, whenever it is killed."""

import json
from dataclasses import replace

import pytest
from scripted import episode, metrics, settings, start

from learner.experiment import AlarmAction, AlarmConfig, RLConfig
from learner.train import run_rl


@pytest.fixture
def config(tmp_path):
    return settings(tmp_path / "run")


def member(spec):
    return int(spec.episode_id.rpartition("-")[2])


def ringing(config, action, steps=24, **changes):
    """Tool use falls in step 8; ten steps later, after step 18, the alarm rings."""
    rl = RLConfig(steps=steps, groups=2, group_size=2, checkpoint_every=2, keep_checkpoints=2, learning_rate=1.0)
    return replace(config, rl=rl, alarm=AlarmConfig(action=action, **changes))


def falls(spec, steps):
    """A call pays, until nobody calls any more."""
    called = member(spec) == 0 and steps < 8
    return episode(spec, called=called, correct=called)


def rates(training):
    return [line["actor/lr"] for line in metrics(training)]


def alarms(training):
    return [line for line in training.said if line.startswith("collapse alarm: ")]


def test_a_warning_is_said_once_and_changes_nothing(config):
    training = start(ringing(config, AlarmAction.warn), falls)
    run_rl(training)
    (said,) = alarms(training)
    assert said.startswith("collapse alarm: RL step 18: tools were given up")
    assert rates(training) == [1.0] * 24
    assert training.directory.checkpoints.names() == ["step_22", "step_24"]


def test_a_run_that_stops_leaves_a_checkpoint_and_is_done(config):
    training = start(ringing(config, AlarmAction.stop), falls)
    checkpoint, _ = run_rl(training)
    assert checkpoint.endswith("/step_18")
    assert training.directory.checkpoints.newest("step") == "step_18"
    assert len(metrics(training)) == 18
    assert alarms(training)[0].endswith("; RL stops")


def test_a_rollback_goes_back_before_the_fall_with_a_smaller_learning_rate(config):
    """After one the policy keeps its tools: the run ends as any other."""

    def play(spec, steps):
        return episode(spec, called=member(spec) == 0, correct=member(spec) == 0) if slower else falls(spec, steps)

    slower = False
    training = start(ringing(config, AlarmAction.rollback), lambda spec, steps: play(spec, steps))
    say = training.say

    def notice(line):
        nonlocal slower
        slower |= line.startswith("the learning rate is multiplied by 0.25")
        say(line)

    training.say = notice
    _, seconds = run_rl(training)
    assert rates(training) == [1.0] * 8 + [0.25] * 16
    assert [line["step"] for line in metrics(training)] == list(range(24))
    undone = [json.loads(line) for line in (training.directory.path / "rolled_back.jsonl").read_text().splitlines()]
    assert [(line["rollback"], line["step"]) for line in undone] == [(1, step) for step in range(8, 18)]
    (note,) = training.directory.progress["rollbacks"]
    assert (note["step"], note["to"]) == (18, 8)
    assert note["seconds"] > 0
    # What was undone is part of the time that RL took.
    assert seconds == pytest.approx(training.directory.checkpoints.state("step_24")["seconds"] + note["seconds"])
    assert len(alarms(training)) == 1
    assert training.trainer.references == ["base"]


def test_a_run_that_was_killed_after_it_stopped_does_not_go_on_until_more_steps_are_asked_for(config):
    config = ringing(config, AlarmAction.stop, steps=20)
    run_rl(start(config, falls))
    resumed = start(replace(config, resume=True), falls)
    checkpoint, _ = run_rl(resumed)
    assert checkpoint.endswith("/step_18")
    assert resumed.trainer.calls == ["load step_18"]
    resumed.finish("rl", 20)
    longer = start(replace(config, resume=True, rl=replace(config.rl, steps=22)), falls)
    assert run_rl(longer)[0].endswith("/step_22")


@pytest.mark.parametrize(
    ("after", "said", "steps"),
    [(AlarmAction.stop, "RL stops after 2 rollbacks", 18), (AlarmAction.warn, "RL goes on after 2 rollbacks", 24)],
)
def test_after_enough_rollbacks_rl_stops_or_goes_on(config, after, said, steps):
    config = ringing(config, AlarmAction.rollback, max_rollbacks=2, learning_rate_factor=0.5, after_rollbacks=after)
    training = start(config, falls)
    run_rl(training)
    assert [line.rpartition("; ")[2] for line in alarms(training)] == ["RL goes back"] * 2 + [said]
    assert rates(training) == [1.0] * 8 + [0.25] * (steps - 8)


@pytest.mark.parametrize("moment", ["set_aside", "drop_from", "publish"])
def test_a_rollback_that_is_killed_is_finished_by_the_resumed_run(config, moment):
    config = ringing(config, AlarmAction.rollback, steps=20, max_rollbacks=1)
    training = start(config, falls)
    owner = training if moment == "publish" else training.tracker
    act = getattr(owner, moment)

    def killed(*arguments):
        if "rollbacks" in training.directory.progress:
            raise KeyboardInterrupt
        return act(*arguments)

    setattr(owner, moment, killed)
    with pytest.raises(KeyboardInterrupt):
        run_rl(training)
    resumed = start(replace(config, resume=True), falls)
    run_rl(resumed)
    assert rates(resumed) == [1.0] * 8 + [0.25] * 12
    undone = (resumed.directory.path / "rolled_back.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in undone] == list(range(8, 18))


def test_a_fall_from_the_first_step_on_goes_back_to_where_rl_began(config):
    """Calls never pay: no later checkpoint is worth going back to."""

    def play(spec, steps):
        return episode(spec, called=member(spec) >= 2 * steps, correct=False)

    rl = RLConfig(steps=12, groups=2, group_size=16, checkpoint_every=1, keep_checkpoints=1)
    training = start(replace(config, rl=rl, alarm=AlarmConfig(action=AlarmAction.rollback, max_rollbacks=1)), play)
    run_rl(training)
    assert alarms(training)[0].startswith("collapse alarm: RL step ")
    assert "tools are being unlearned" in alarms(training)[0]
    assert training.directory.progress["rollbacks"][0]["to"] < 6
    assert training.directory.progress["rollbacks"][0]["step"] < 8  # calls had not fallen by half


def test_a_policy_that_never_called_has_nothing_to_go_back_to(config):
    training = start(ringing(config, AlarmAction.rollback), lambda spec, steps: episode(spec, called=False, correct=False))
    run_rl(training)
    assert alarms(training)[0].endswith("; RL stops: it began without calls, so there is nothing to go back to")
    assert "rollbacks" not in training.directory.progress
    assert len(metrics(training)) == 5
