"""The main loop: collect groups, compute advantages, update the policy, publish the weights, log, checkpoint."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from console import console, progress
from envs.errors import FleetError
from evaluation.tool_use import CollapseAlarm, tool_use_metrics
from learner.batch import Batch
from learner.cold_start import CHECKPOINT as COLD_START
from learner.experiment import Stage
from learner.workshop import Workshop
from rollout.collect import group_specs
from rollout.types import Episode, GroupSpec, episodes_of

CHECKPOINT = "step"


def run_rl(shop: Workshop) -> tuple[Path, float]:
    """Train the policy by reinforcement learning, or go on from the newest checkpoint.

    Returns the last checkpoint and the seconds that all steps took. Raises FleetError where every episode of a step failed for
    reasons of infrastructure.
    """
    settings, alarm = shop.config.rl, CollapseAlarm()
    step, seconds = _resume(shop, alarm)
    with progress("RL", settings.steps) as advance:
        while step < settings.steps:
            clock = Clock()
            with clock.time("rollout"):
                groups = shop.fleet.collect(_specs(shop, step))
                outcomes = list(episodes_of(groups))
                # Drop episodes that still failed for infrastructure reasons after all retries.
                episodes = [episode for episode in outcomes if not episode.failed]
            if not episodes:
                raise FleetError(f"RL step {step}: every episode failed; the last one: {outcomes[-1].error}")
            with clock.time("learn"):
                batch = shop.batch(episodes)
                advantages = shop.learner.advantages(batch.rewards_N, batch.group_ids_N)
                old_log_probs, entropies = shop.learner.log_probs(batch)
                metrics = shop.learner.policy_step(batch, advantages, old_log_probs, _learning_rate(shop, step))
            with clock.time("sync"):
                shop.publish(shop.tracker.global_step + 1)
            metrics |= tool_use_metrics(groups, alarm)
            metrics |= gap_metrics(batch, old_log_probs, entropies) | clock.metrics(episodes)
            metrics["rollout/infrastructure_failures"] = len(outcomes) - len(episodes)
            shop.store.write(f"rl_{step:06d}", outcomes)
            shop.tracker.log(Stage.rl.value, step, metrics)
            step, seconds = step + 1, seconds + clock.total_s
            if step % settings.checkpoint_every == 0 or step == settings.steps:
                shop.save(f"{CHECKPOINT}_{step}", step=step, seconds=seconds, alarm=alarm.state())
                shop.directory.prune(CHECKPOINT)
            advance(step, _status(metrics))
    return shop.directory.checkpoints / f"{CHECKPOINT}_{step}", seconds


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


def gap_metrics(batch: Batch, log_probs: torch.Tensor, entropies: torch.Tensor | None) -> dict[str, float]:
    """How far learner and sampler are apart on the sampled tokens: mean and largest absolute difference of log-probabilities."""
    mask = batch.loss_mask_N_T
    gaps = np.abs(log_probs.numpy() - batch.logprobs_N_T)[mask]
    metrics = {"rollout/logprob_gap": float(gaps.mean()), "rollout/logprob_gap_max": float(gaps.max())}
    if entropies is not None:
        metrics["actor/entropy"] = float(entropies.numpy()[mask].mean())
    return metrics


def _resume(shop: Workshop, alarm: CollapseAlarm) -> tuple[int, float]:
    newest = shop.directory.newest(CHECKPOINT)
    if newest is None:
        shop.begin_stage()
        cold_start = shop.directory.checkpoints / COLD_START
        if cold_start.exists():
            shop.learner.load(cold_start)
        shop.learner.reset_optimizer()
        shop.publish()
        return 0, 0.0
    state = shop.restore(newest)
    alarm.load_state(state["alarm"])
    console.print(f"RL goes on from step {state['step']} ({newest})", highlight=False)
    return state["step"], state["seconds"]


def _specs(shop: Workshop, step: int) -> list[GroupSpec]:
    config = shop.config
    return group_specs(
        "rl",
        shop.tasks("train"),
        groups=config.rl.groups,
        group_size=config.rl.group_size,
        seed=config.seed,
        step=step,
        temperature=config.rl.temperature,
    )


def _learning_rate(shop: Workshop, step: int) -> float:
    settings = shop.config.rl
    return settings.learning_rate * min(1.0, (step + 1) / max(1, settings.warmup_steps))


def _status(metrics: dict[str, float]) -> str:
    return (
        f"reward {metrics['critic/score/mean']:.3f}  calls {metrics['tools/calls_per_episode/mean']:.2f}"
        f" (var {metrics['tools/calls_per_episode/var']:.2f})  gap {metrics['rollout/logprob_gap']:.1e}"
        f"  {metrics['timing_s/step']:.1f} s"
    )
