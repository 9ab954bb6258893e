"""The main loop: collect groups, compute advantages, update the policy, publish the weights, log, checkpoint."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from envs.errors import FleetError
from evaluation.tool_use import CollapseAlarm, tool_use_metrics
from learner.batch import Batch
from learner.cold_start import CHECKPOINT as COLD_START
from learner.experiment import Stage
from learner.training_run import TrainingRun
from rollout.collect import group_specs
from rollout.types import Episode, GroupSpec, episodes_of

CHECKPOINT = "step"


def run_rl(training: TrainingRun) -> tuple[Path, float]:
    """Train the policy by reinforcement learning, or go on from the newest checkpoint.

    Returns the last checkpoint and the seconds that all steps took. Raises FleetError if a step has no episode to learn from.
    """
    settings, trainer, alarm = training.config.rl, training.trainer, CollapseAlarm()
    step, seconds = _resume(training, alarm)
    cold_started = training.directory.checkpoints / COLD_START / "policy"
    trainer.refer_to(str(cold_started) if cold_started.exists() else training.policy_dir)
    with training.progress("RL", settings.steps) as advance:
        while step < settings.steps:
            clock = Clock()
            with clock.time("rollout"):
                groups = training.rollout(_specs(training, step))
                outcomes = list(episodes_of(groups))
                # There is nothing to learn from episodes that failed for infrastructure reasons after all retries, or whose
                # question could not be put to the policy.
                episodes = [episode for episode in outcomes if not (episode.failed or episode.unplayed)]
            if not episodes:
                raise FleetError(f"RL step {step}: every episode failed; the last one: {outcomes[-1].error}")
            with clock.time("learn"):
                batch = Batch.of_episodes(episodes)
                advantages_E = trainer.advantages(batch)
                metrics = trainer.policy_step(batch, advantages_E, settings.learning_rate_at(step))
                training.count_step()
            with clock.time("sync"):
                training.publish()
            metrics |= tool_use_metrics(groups, alarm, training.tools)
            metrics |= clock.metrics(episodes)
            metrics["rollout/infrastructure_failures"] = sum(episode.failed for episode in outcomes)
            metrics["rollout/unplayed"] = sum(episode.unplayed for episode in outcomes)
            training.store.write(f"rl_{step:06d}", outcomes)
            training.log(Stage.rl, step, metrics)
            step, seconds = step + 1, seconds + clock.total_s
            if step % settings.checkpoint_every == 0 or step == settings.steps:
                training.save(f"{CHECKPOINT}_{step}", step=step, seconds=seconds, alarm=alarm.state())
                training.directory.prune(CHECKPOINT)
            advance(step, _status(metrics))
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

    def metrics(self, episodes: list[Episode]) -> dict[str, float]:
        """`timing_s/…`: `rollout`, `learn`, `sync` and `step` are wall time of the driver; `generate` and `tool` are an episode's
        mean.

        An episode generates while others wait for their tools, so `generate` and `tool` do not add up to `rollout`.
        """
        turns = [
            [(turn.generate_s, sum(call.latency_s for call in turn.tool_calls)) for turn in episode.trajectory.turns]
            for episode in episodes
        ]
        totals = np.array([np.sum(episode or [(0.0, 0.0)], axis=0) for episode in turns])
        generate, tool = totals.mean(axis=0).tolist()
        parts = self._parts | {"generate": generate, "tool": tool, "step": self.total_s}
        return {f"timing_s/{name}": seconds for name, seconds in parts.items()}


def _resume(training: TrainingRun, alarm: CollapseAlarm) -> tuple[int, float]:
    newest = training.directory.newest(CHECKPOINT)
    if newest is None:
        training.begin_stage()
        cold_start = training.directory.checkpoints / COLD_START
        if cold_start.exists():
            training.trainer.load(cold_start)
        training.trainer.reset_optimizer()
        training.publish()
        return 0, 0.0
    state = training.restore(newest)
    alarm.load_state(state["alarm"])
    training.say(f"RL goes on from step {state['step']} ({newest})")
    return state["step"], state["seconds"]


def _specs(training: TrainingRun, step: int) -> list[GroupSpec]:
    config = training.config
    return group_specs(
        "rl",
        training.tasks("train"),
        groups=config.rl.groups,
        group_size=config.rl.group_size,
        seed=config.seed,
        step=step,
        temperature=config.rl.temperature,
    )


def _status(metrics: dict[str, float]) -> str:
    # A trainer of one's own may not measure the distance.
    gap = f"  gap {metrics['rollout/logprob_gap']:.1e}" if "rollout/logprob_gap" in metrics else ""
    return (
        f"reward {metrics['critic/score/mean']:.3f}  calls {metrics['tools/calls_per_episode/mean']:.2f}"
        f" (var {metrics['tools/calls_per_episode/var']:.2f}){gap}  {metrics['timing_s/step']:.1f} s"
    )
