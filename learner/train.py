"""The main loop: collect groups, compute advantages, update the policy, publish the weights, log, checkpoint."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from envs.errors import FleetError
from evaluation.outcomes import DroppedRows, outcome_metrics
from evaluation.tool_use import CollapseAlarm, tool_use_metrics
from learner.batch import Batch
from learner.cold_start import CHECKPOINT as COLD_START
from learner.experiment import OnDeadline, Stage
from learner.training_run import TrainingRun
from rollout.collect import group_specs
from rollout.summary import EpisodeSummary
from rollout.types import GroupSpec, episodes_of

CHECKPOINT = "step"


def run_rl(training: TrainingRun) -> tuple[Path, float]:
    """Train the policy by reinforcement learning, or go on from the newest checkpoint.

    Returns the last checkpoint and the seconds that all steps took. Raises FleetError if a step has no episode to learn from.
    """
    settings, trainer, alarm = training.config.rl, training.trainer, CollapseAlarm()
    state = _resume(training)
    step, seconds, drawn = state["step"], state["seconds"], state["drawn"]
    alarm.load_state(state["alarm"])
    dropped = DroppedRows(state["dropped"])
    with training.progress("RL", settings.steps) as advance:
        while step < settings.steps:
            clock = Clock()
            with clock.time("rollout"):
                groups = training.play(f"rl_{step:06d}", _specs(training, step, drawn))
                drawn += settings.groups
                outcomes = list(episodes_of(groups))
                # There is nothing to learn from episodes that our infrastructure failed after all retries, that a deadline cut
                # off, or whose question could not be put to the policy: they are in no group's baseline either.
                episodes = [episode for episode in outcomes if episode.trainable]
            if not episodes:
                last = outcomes[-1]
                reason = last.error or f"cut off by {last.cut}: raise it"
                raise FleetError(f"RL step {step}: no episode can be learned from; the last one: {reason}")
            with clock.time("learn"):
                batch = Batch.of_summaries(episodes)
                advantages_E = trainer.advantages(batch.rewards_E, batch.group_ids_E)
                metrics = trainer.policy_step(batch, advantages_E, _learning_rate(training, step))
                training.count_step()
            with clock.time("sync"):
                training.publish()
            metrics |= tool_use_metrics(groups, alarm, training.tools)
            metrics |= clock.metrics(episodes) | outcome_metrics(outcomes)
            dropped.take(outcomes)
            metrics |= _data_metrics(training, drawn, dropped)
            training.log(Stage.rl, step, metrics)
            step, seconds = step + 1, seconds + clock.total_s
            if step % settings.checkpoint_every == 0 or step == settings.steps:
                state = {"step": step, "seconds": seconds, "drawn": drawn, "alarm": alarm.state(), "dropped": dropped.state()}
                training.save(f"{CHECKPOINT}_{step}", **state)
                training.directory.prune(CHECKPOINT)
            advance(step, _status(metrics))
    if dropped:
        training.say(f"RL: {dropped}")
    return training.directory.checkpoints / f"{CHECKPOINT}_{step}", seconds


class Clock:
    """Wall time of the parts of a step, in seconds."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._parts: dict[str, float] = {}

    @contextmanager
    def time(self, part: str) -> Generator[None]:
        """Count the time inside as `part`."""
        started = time.monotonic()
        yield
        self._parts[part] = time.monotonic() - started

    @property
    def total_s(self) -> float:
        """Seconds since the step began."""
        return time.monotonic() - self._started

    def metrics(self, episodes: Sequence[EpisodeSummary]) -> dict[str, float]:
        """`timing_s/…`: `rollout`, `learn`, `sync` and `step` are wall time of the driver; `generate` and `tool` are an episode's
        mean.

        An episode generates while others wait for their tools, so `generate` and `tool` do not add up to `rollout`.
        """
        generate = float(np.mean([episode.generate_s for episode in episodes]))
        tool = float(np.mean([episode.tool_s for episode in episodes]))
        parts = self._parts | {"generate": generate, "tool": tool, "step": self.total_s}
        return {f"timing_s/{name}": seconds for name, seconds in parts.items()}


def _data_metrics(training: TrainingRun, drawn: int, dropped: DroppedRows) -> dict[str, float]:
    """`data/epoch`, how often all rows of the file have been drawn, and `data/dropped_rows`, both since the run began."""
    rows = training.rows("train")
    return {"data/dropped_rows": len(dropped)} | ({} if rows is None else {"data/epoch": drawn / len(rows)})


def _resume(training: TrainingRun) -> dict[str, Any]:
    """Where the run goes on: `step`, `seconds` so far, `drawn` (groups), `alarm` and `dropped` (questions)."""
    begun = {"step": 0, "seconds": 0.0, "drawn": 0, "alarm": {}, "dropped": []}
    newest = training.directory.newest(CHECKPOINT)
    if newest is None:
        training.begin_stage()
        cold_start = training.directory.checkpoints / COLD_START
        if cold_start.exists():
            training.trainer.load(cold_start)
        training.trainer.reset_optimizer()
        training.publish()
        return begun
    state = training.restore(newest)
    training.say(f"RL goes on from step {state['step']} ({newest})")
    return begun | {"drawn": state["step"] * training.config.rl.groups} | state


def _specs(training: TrainingRun, step: int, drawn: int) -> list[GroupSpec]:
    config = training.config
    return group_specs(
        "rl",
        training.tasks("train"),
        groups=config.rl.groups,
        group_size=config.rl.group_size,
        seed=config.seed,
        step=step,
        temperature=config.rl.temperature,
        rows=training.rows("train"),
        first=drawn,
        repeat_if_cut=config.rl.on_deadline is OnDeadline.repeat,
    )


def _learning_rate(training: TrainingRun, step: int) -> float:
    settings = training.config.rl
    return settings.learning_rate * min(1.0, (step + 1) / max(1, settings.warmup_steps))


def _status(metrics: dict[str, float]) -> str:
    # A trainer of one's own may not measure the distance.
    gap = f"  gap {metrics['rollout/logprob_gap']:.1e}" if "rollout/logprob_gap" in metrics else ""
    return (
        f"reward {metrics['critic/score/mean']:.3f}  calls {metrics['tools/calls_per_episode/mean']:.2f}"
        f" (var {metrics['tools/calls_per_episode/var']:.2f}){gap}  {metrics['timing_s/step']:.1f} s"
    )
