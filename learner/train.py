"""The main loop: collect groups, compute advantages, update the policy, publish the weights, log, checkpoint."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np

from envs.errors import FleetError
from evaluation.alarm import CollapseAlarm
from evaluation.outcomes import DroppedRows, outcome_metrics
from evaluation.tool_use import tool_use_metrics
from learner.alarm_actions import act, finish_rollback, learning_rate_scale, undone_s
from learner.batch import Batch
from learner.cold_start import CHECKPOINT as COLD_START
from learner.draw import Draw, draw_groups
from learner.experiment import AlarmAction, Stage
from learner.run_files.best_checkpoint import BestCheckpoint
from learner.tolerance import GapAlarm, arithmetic
from learner.trainer import RecordsLearned, checked_advantages, checked_metrics
from learner.training_run import TrainingRun
from rollout.summary import EpisodeSummary

CHECKPOINT = "step"


def run_rl(training: TrainingRun) -> tuple[str, float]:
    """Train the policy by reinforcement learning, or go on from the newest checkpoint.

    Returns the path or URL of the last checkpoint and the seconds that all steps took, those that a rollback undid included. Raises
    FleetError if a step has no episode to learn from.
    """
    settings, trainer = training.config.rl, training.trainer
    finish_rollback(training, CHECKPOINT)
    state = _resume(training)
    trainer.refer_to(_reference(training))
    gap_alarm = GapAlarm(arithmetic(training.fleet.dtype, training.config.learner.precision))
    with training.progress("RL", settings.steps) as advance:
        training.waking_metrics()  # those of an evaluation are no step's
        while state.step < settings.steps and not state.stopped:
            clock = Clock(training.status.doing)
            with clock.time("rollout"):
                draw = draw_groups(training, state.step, state.drawn)
                examples = _require(draw, state.step)
            with clock.time("learn"):
                batch = Batch.of_summaries(examples)
                advantages_E = checked_advantages(trainer.advantages(batch), len(examples))
                _record(training, draw, batch, advantages_E)
                lr = state.scale * settings.learning_rate_at(state.step)
                metrics = checked_metrics(trainer.policy_step(batch, advantages_E, lr), "policy_step")
                training.count_step()
            with clock.time("sync"):
                training.publish()
            with clock.time("telemetry"):
                metrics |= tool_use_metrics(draw.played, state.alarm, training.tools) | state.take(draw, training)
            metrics |= clock.metrics(draw.outcomes) | training.waking_metrics()
            training.log(Stage.rl, state.step, metrics, episodes=draw.outcomes, stored_as=draw.stored_as)
            state.count(metrics, clock.total_s)
            if disagreement := gap_alarm.take(metrics.get("rollout/logprob_gap")):
                _warn(training, f"RL step {state.step}: {disagreement}")
            if state.begins_to_ring() and act(training, state, CHECKPOINT) is AlarmAction.rollback:
                state = _resume(training)
                continue
            if state.step % settings.checkpoint_every == 0 or state.step == settings.steps or state.stopped:
                training.save(f"{CHECKPOINT}_{state.step}", prefix=CHECKPOINT, keep=state.kept_steps(), **state.state())
            advance(state.step, _status(metrics))
    state.tell(training)
    return training.directory.checkpoints.location(f"{CHECKPOINT}_{state.step}"), state.seconds + undone_s(training)


class Clock:
    """Wall time of the parts of a step, in seconds."""

    def __init__(self, doing: Callable[[str], AbstractContextManager[None]] = nullcontext) -> None:
        """`doing` is entered with the name of each part."""
        self._doing = doing
        self._started = time.monotonic()
        self._parts: dict[str, float] = {}

    @contextmanager
    def time(self, part: str) -> Generator[None]:
        """Count the time inside as `part`."""
        started = time.monotonic()
        with self._doing(part):
            yield
        self._parts[part] = time.monotonic() - started

    @property
    def total_s(self) -> float:
        """Seconds since the step began."""
        return time.monotonic() - self._started

    def metrics(self, episodes: Sequence[EpisodeSummary]) -> dict[str, float]:
        """`timing_s/…`: `rollout`, `learn`, `sync` and `step` are wall time of the driver; `generate` and `tool` are an episode's
        mean over all that were played, those that failed or were cut off among them (a turn cut off in its generation adds none).

        An episode generates while others wait for their tools, so `generate` and `tool` do not add up to `rollout`.
        """
        generate = float(np.mean([episode.generate_s for episode in episodes]))
        tool = float(np.mean([episode.tool_s for episode in episodes]))
        parts = self._parts | {"generate": generate, "tool": tool, "step": self.total_s}
        return {f"timing_s/{name}": seconds for name, seconds in parts.items()}


class RLState:
    """Where RL stands: what a checkpoint keeps beside the policy."""

    def __init__(self, training: TrainingRun) -> None:
        self.step, self.seconds = 0, 0.0
        self.drawn = 0
        self.scale = learning_rate_scale(training)
        self.alarm, self.safe_step = CollapseAlarm(), 0
        self.stopped = False
        """Whether the alarm has ended RL."""
        self._finished = Stage.rl in training.directory.progress
        self._goes_back = training.config.alarm.action is AlarmAction.rollback
        self._rang = False
        self._best, self._dropped = BestCheckpoint(training.config.checkpoint.best), DroppedRows()

    def take(self, draw: Draw, training: TrainingRun) -> dict[str, float]:
        """Count a step's groups. Metrics: those of the draw and of how its episodes ended; since the run began, `data/epoch`, how
        often all rows of the file were drawn, and `data/dropped_rows`."""
        self.drawn += draw.drawn
        self._dropped.take(draw.outcomes)
        since = {"data/dropped_rows": float(len(self._dropped))}
        if (rows := training.rows("train")) is not None:
            since["data/epoch"] = self.drawn / len(rows)
        return draw.metrics | outcome_metrics(draw.outcomes) | since

    def count(self, metrics: dict[str, float], seconds: float) -> None:
        """Count a step that took so many seconds."""
        self._best.add(metrics)
        self.step, self.seconds = self.step + 1, self.seconds + seconds

    def begins_to_ring(self) -> bool:
        """Whether the alarm rings and did not a step ago."""
        before, self._rang = self._rang, self.alarm.ringing
        return self._rang and not before

    def kept_steps(self) -> tuple[int, ...]:
        """The checkpoints that are kept beside the newest, this step's taken into account: the best, and that to go back to."""
        self._best.rank(self.step)
        if self.alarm.calm and not self._rang:
            self.safe_step = self.step
        return (*self._best.steps, self.safe_step) if self._goes_back else self._best.steps

    def state(self) -> dict[str, Any]:
        """What `load` needs, as plain JSON."""
        return {
            "step": self.step,
            "seconds": self.seconds,
            "drawn": self.drawn,
            "alarm": self.alarm.state(),
            "rang": self._rang,
            "stopped": self.stopped,
            "safe_step": self.safe_step,
            "best": self._best.state(),
            "dropped": self._dropped.state(),
        }

    def load(self, state: dict[str, Any], groups: int) -> None:
        """Go on from `state()`; a step without filtering draws so many `groups`."""
        self.step, self.seconds = state["step"], state["seconds"]
        self.alarm.load_state(state["alarm"])
        # Checkpoints of version 0.1 have none of these.
        self.drawn = state.get("drawn", self.step * groups)
        self._rang, self.safe_step = state.get("rang", False), state.get("safe_step", 0)
        # Who asks for more steps of a stage that was done goes on.
        self.stopped = state.get("stopped", False) and not self._finished
        self._best.load_state(state.get("best"))
        self._dropped = DroppedRows(state.get("dropped", ()))

    def tell(self, training: TrainingRun) -> None:
        """Say at the end what a person should know."""
        if self._best.steps:
            training.say(f"best by {self._best.metric}: {CHECKPOINT}_{self._best.steps[0]} ({self._best.value:.4g})")
        if self._dropped:
            training.say(f"RL: {self._dropped}")


def _resume(training: TrainingRun) -> RLState:
    """Give trainer and fleet the newest checkpoint of RL, or what RL begins with; returns where RL stands."""
    checkpoints, state = training.directory.checkpoints, RLState(training)
    newest = checkpoints.newest(CHECKPOINT)
    if newest is None:
        training.directory.require_kept(CHECKPOINT)
        training.begin_stage()
        if checkpoints.exists(COLD_START):
            training.load(COLD_START)
        else:
            training.directory.require_kept(COLD_START)
        training.trainer.reset_optimizer()
        training.publish()
        if training.config.alarm.action is AlarmAction.rollback:
            training.save(f"{CHECKPOINT}_0", prefix=CHECKPOINT, **state.state())
    else:
        state.load(training.restore(newest), training.config.rl.groups)
        what = "was stopped at" if state.stopped else "goes on from"
        training.say(f"RL {what} step {state.step} ({checkpoints.location(newest)})")
    return state


def _reference(training: TrainingRun) -> str:
    """The directory of the policy that RL began with."""
    checkpoints = training.directory.checkpoints
    return f"{checkpoints.location(COLD_START)}/policy" if checkpoints.exists(COLD_START) else training.policy_dir


def _require(draw: Draw, step: int) -> list[EpisodeSummary]:
    """The episodes to learn from. Raises FleetError, which counts steps from 1 as the terminal does, if there are none."""
    if not draw.examples:
        last = draw.outcomes[-1]
        reason = last.error or f"cut off by {last.cut}: raise it"
        raise FleetError(f"RL step {step + 1}: no episode can be learned from; the last one: {reason}")
    return draw.examples


def _warn(training: TrainingRun, disagreement: str) -> None:
    text = f"{disagreement}: ask toolwise doctor policy={training.policy_dir}"
    training.say(f"gap alarm: {text}")
    training.alert("Sampler and learner disagree", text)


def _record(training: TrainingRun, draw: Draw, batch: Batch, advantages_E: np.ndarray) -> None:
    """Have it written what the step learns of each sequence. What an undone attempt at the step wrote goes in any case."""
    files = draw.learned_files(training.directory.path)
    files.clear()
    if not training.config.rl.record_learned:
        return
    if isinstance(training.trainer, RecordsLearned):
        training.trainer.record(files)
    else:
        files.write(batch.learned(advantages_E, range(len(batch))))


def _status(metrics: dict[str, float]) -> str:
    # A trainer of one's own may not measure the distance.
    gap = f"  gap {metrics['rollout/logprob_gap']:.1e}" if "rollout/logprob_gap" in metrics else ""
    return (
        f"reward {metrics['critic/score/mean']:.3f}  calls {metrics['tools/calls_per_episode/mean']:.2f}"
        f" (var {metrics['tools/calls_per_episode/var']:.2f}){gap}  {metrics['timing_s/step']:.1f} s"
    )
