"""The main loop: collect groups, compute advantages, update the policy, publish the weights, log, checkpoint."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager

import numpy as np

from envs.errors import FleetError
from evaluation.tool_use import CollapseAlarm, tool_use_metrics
from learner.batch import Batch
from learner.best_checkpoint import BestCheckpoint
from learner.cold_start import CHECKPOINT as COLD_START
from learner.experiment import Stage
from learner.training_run import TrainingRun
from rollout.collect import group_specs
from rollout.summary import EpisodeSummary
from rollout.types import Group, GroupSpec, episodes_of

CHECKPOINT = "step"


def run_rl(training: TrainingRun) -> tuple[str, float]:
    """Train the policy by reinforcement learning, or go on from the newest checkpoint.

    Returns the last checkpoint and the seconds that all steps took. Raises FleetError if a step has no episode to learn from.
    """
    settings, trainer, alarm = training.config.rl, training.trainer, CollapseAlarm()
    best = BestCheckpoint(training.config.checkpoint.best)
    step, seconds = _resume(training, alarm, best)
    checkpoints = training.directory.checkpoints
    cold_started = f"{checkpoints.location(COLD_START)}/policy" if checkpoints.exists(COLD_START) else None
    trainer.refer_to(cold_started or training.policy_dir)
    with training.progress("RL", settings.steps) as advance:
        while step < settings.steps:
            clock = Clock()
            with clock.time("rollout"):
                groups, chosen, drawing = draw_groups(training, step)
                outcomes = list(episodes_of(groups))
                episodes = [episode for group in chosen for episode in teaching(group)]
            if not episodes:
                raise FleetError(f"RL step {step}: every episode failed; the last one: {outcomes[-1].error}")
            with clock.time("learn"):
                batch = Batch.of_summaries(episodes)
                advantages_E = trainer.advantages(batch)
                metrics = trainer.policy_step(batch, advantages_E, settings.learning_rate_at(step))
                training.count_step()
            with clock.time("sync"):
                training.publish()
            metrics |= tool_use_metrics(groups, alarm, training.tools)
            metrics |= drawing | clock.metrics(episodes)
            metrics["rollout/infrastructure_failures"] = sum(episode.failed for episode in outcomes)
            metrics["rollout/unplayed"] = sum(episode.unplayed for episode in outcomes)
            training.log(Stage.rl, step, metrics)
            best.add(metrics)
            step, seconds = step + 1, seconds + clock.total_s
            if step % settings.checkpoint_every == 0 or step == settings.steps:
                best.rank(step)
                state = {"step": step, "seconds": seconds, "alarm": alarm.state(), "best": best.state()}
                training.save(f"{CHECKPOINT}_{step}", prefix=CHECKPOINT, keep=best.steps, **state)
            advance(step, _status(metrics))
    if best.steps:
        training.say(f"best by {best.metric}: {CHECKPOINT}_{best.steps[0]} ({best.value:.4g})")
    return training.directory.checkpoints.location(f"{CHECKPOINT}_{step}"), seconds


Played = list[Group[EpisodeSummary]]


def draw_groups(training: TrainingRun, step: int) -> tuple[Played, Played, dict[str, float]]:
    """All groups that were played for a step, those of them to learn from, and metrics.

    With verl's `filter_groups` (dynamic sampling: DAPO, arXiv:2503.14476) these are groups whose rewards differ: groups are drawn
    until there are enough of them, or `max_num_gen_batches` times. If there is none by then, the step learns from all, which is
    nothing.
    """
    wanted = training.config.rl.groups
    filtering = training.config.learner.verl.algorithm.get("filter_groups") or {}
    name = f"rl_{step:06d}"
    if not filtering.get("enable"):
        groups = training.play(name, _specs(training, step))
        return groups, groups, {}
    played: Played = []
    varied: Played = []
    most = filtering.get("max_num_gen_batches") or 0
    draws = 0
    while len(varied) < wanted and (most <= 0 or draws < most):
        drawn = training.play(f"{name}_{draws}" if draws else name, _specs(training, step, draws))
        played += drawn
        varied += [group for group in drawn if len({episode.reward for episode in teaching(group)}) > 1]
        draws += 1
    return played, varied[:wanted] or played, {"rollout/draws": draws, "rollout/groups_that_vary": len(varied) / len(played)}


def teaching(group: Group[EpisodeSummary]) -> list[EpisodeSummary]:
    """The episodes of a group that can be learned from: not those that failed for infrastructure reasons after all retries, nor
    those whose question could not be put to the policy."""
    return [episode for episode in group.episodes if not (episode.failed or episode.unplayed)]


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


def _resume(training: TrainingRun, alarm: CollapseAlarm, best: BestCheckpoint) -> tuple[int, float]:
    newest = training.directory.checkpoints.newest(CHECKPOINT)
    if newest is None:
        training.begin_stage()
        if training.directory.checkpoints.exists(COLD_START):
            training.load(COLD_START)
        training.trainer.reset_optimizer()
        training.publish()
        return 0, 0.0
    state = training.restore(newest)
    alarm.load_state(state["alarm"])
    best.load_state(state.get("best"))  # checkpoints of version 0.1 have none
    training.say(f"RL goes on from step {state['step']} ({training.directory.checkpoints.location(newest)})")
    return state["step"], state["seconds"]


def _specs(training: TrainingRun, step: int, draw: int = 0) -> list[GroupSpec]:
    """The groups of a step; each `draw` has its own."""
    config = training.config
    return group_specs(
        f"rl+{draw}" if draw else "rl",
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
