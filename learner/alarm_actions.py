"""What a run does when the collapse alarm begins to ring: say so, stop, or go back and learn more slowly."""

from __future__ import annotations

from typing import Any, Protocol

from evaluation.alarm import CollapseAlarm
from learner.experiment import AlarmAction
from learner.training_run import TrainingRun

_TO = "rollback_to"
"""The note of a rollback that is under way: a run that is killed in it goes on with it."""


class State(Protocol):
    """Where RL stands, as far as the alarm is concerned: `safe_step` is that of the last checkpoint before tool use fell, `seconds`
    is what the steps so far took, `stopped` ends RL."""

    step: int
    seconds: float
    safe_step: int
    stopped: bool
    alarm: CollapseAlarm


def learning_rate_scale(training: TrainingRun) -> float:
    """What the learning rate of RL is multiplied by after the rollbacks so far."""
    return training.config.alarm.learning_rate_factor ** len(_rollbacks(training))


def undone_s(training: TrainingRun) -> float:
    """Seconds of the steps that rollbacks undid."""
    return sum(note.get("seconds", 0.0) for note in _rollbacks(training))


def act(training: TrainingRun, state: State, prefix: str) -> AlarmAction:
    """Do what `alarm.action` says, once the alarm begins to ring; returns what was done.

    It is said and sent as a W&B alert in any case. After a rollback the newest checkpoint is the one to go on from: the steps after
    it are undone, and their metrics are in `rolled_back.jsonl`.
    """
    settings, action = training.config.alarm, training.config.alarm.action
    text = f"RL step {state.step}: {state.alarm.reason}"
    remedy = ""
    if action is AlarmAction.rollback:
        target, done = _target(training, state, prefix), len(_rollbacks(training))
        if remedy := _nothing_to_go_back_to(state.alarm, target):
            action = AlarmAction.stop
        elif done >= settings.max_rollbacks:
            action, remedy = settings.after_rollbacks, f" after {done} rollback{'s' * (done != 1)}"
    going_on = f"; RL goes on{remedy}" if remedy else ""
    said = {AlarmAction.warn: going_on, AlarmAction.stop: f"; RL stops{remedy}", AlarmAction.rollback: "; RL goes back"}
    training.say(f"collapse alarm: {text}{said[action]}")
    training.alert("Tool use is collapsing", f"{text}{said[action]}")
    state.stopped = action is AlarmAction.stop
    if action is AlarmAction.rollback:
        undone = state.seconds - training.directory.checkpoints.state(f"{prefix}_{target}")["seconds"]
        note = {"step": state.step, "to": target, "reason": state.alarm.reason, "seconds": undone}
        training.directory.note(rollbacks=[*_rollbacks(training), note], **{_TO: target})
        finish_rollback(training, prefix)
        training.say(f"the learning rate is multiplied by {learning_rate_scale(training):g} from here on")
    return action


def finish_rollback(training: TrainingRun, prefix: str) -> None:
    """Remove the checkpoints that a rollback undid, if one is under way; what stays is what RL goes on from."""
    directory = training.directory
    if (target := directory.progress.get(_TO)) is None:
        return
    directory.finish_saving(training.trainer)
    began = directory.checkpoints.state(f"{prefix}_{target}")["global_step"]
    training.tracker.set_aside(began, len(_rollbacks(training)))
    directory.checkpoints.remove_after(prefix, target)
    directory.forget(_TO)


def _nothing_to_go_back_to(alarm: CollapseAlarm, target: int | None) -> str:
    """Why RL cannot go back; empty if it can."""
    if alarm.never_called:
        return ": it began without calls, so there is nothing to go back to"
    return ": no checkpoint from before the fall is there any more" if target is None else ""


def _target(training: TrainingRun, state: State, prefix: str) -> int | None:
    """The step of the newest checkpoint that is not after `safe_step`; None if there is none."""
    training.directory.finish_saving(training.trainer)
    there = training.directory.checkpoints.numbers(prefix)
    return max((number for number in there if number <= state.safe_step), default=None)


def _rollbacks(training: TrainingRun) -> list[dict[str, Any]]:
    return training.directory.progress.get("rollbacks", [])
