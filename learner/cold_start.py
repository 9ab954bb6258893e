"""Cold start: supervised fine-tuning on a fixed set of verified demonstrations, mixed with rehearsal of what the base knows."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from envs.errors import FleetError
from learner.batch import Batch, Example
from learner.demonstrations import collect_demonstrations, collect_rehearsal, draw_weighted
from learner.experiment import ColdStartConfig, Loss, Plateau, Stage
from learner.trainer import checked_metrics
from learner.training_run import TrainingRun
from rollout.specs import draw
from rollout.types import Episode, Group

CHECKPOINT = "cold_start"


class SupervisedSteps:
    """Supervised steps on the demonstrations, epoch by epoch; step k draws the same batch whenever it is run."""

    def __init__(self, training: TrainingRun) -> None:
        self._training = training
        with training.status.doing("demonstrations"):
            demonstrations, rehearsal = collect_demonstrations(training), collect_rehearsal(training)
        self._weights = demonstrations.weights
        self._demonstrations, self._rehearsal = (
            [Example.of(episode) for episode in pool] for pool in (demonstrations.episodes, rehearsal)
        )

    def take(self, stage: Stage, step: int) -> dict[str, float]:
        """One optimizer step; returns its metrics."""
        settings = self._training.config.cold_start
        started = time.monotonic()
        lr = settings.learning_rate * min(1.0, (step + 1) / max(1, settings.warmup_steps))
        how = {"per_sequence": True} if settings.loss is Loss.sequence else {}
        metrics = checked_metrics(self._training.trainer.supervised_step(self._batch(step), lr, **how), "supervised_step")
        self._training.count_step()
        metrics["timing_s/step"] = time.monotonic() - started
        self._training.log(stage, step, metrics)
        return metrics

    def _batch(self, step: int) -> Batch:
        settings, seed, chosen = self._training.config.cold_start, self._training.config.seed, []
        for name, pool, most, weights in (
            ("demonstrations", self._demonstrations, settings.batch_size, self._weights),
            ("rehearsal", self._rehearsal, settings.rehearsal_batch_size, None),
        ):
            size = min(most, len(pool))
            if size and weights is not None:
                chosen += [pool[place] for place in draw_weighted(weights, size, seed=seed, first=step * size)]
            elif size:
                chosen += draw(pool, size, seed=seed, name=name, first=step * size)
        return Batch.of(chosen)


@dataclass(slots=True)
class Measurements:
    """Held-out accuracy over the steps: `overall` as (step, share right), and of each ability (right, of how many) beside it.

    Measurements of a version that did not count by ability have none there.
    """

    overall: list[tuple[int, float]] = field(default_factory=list)
    by_ability: list[dict[str, tuple[int, int]]] = field(default_factory=list)

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> Measurements:
        """Those in a checkpoint's `state.json`."""
        overall = [(int(step), float(accuracy)) for step, accuracy in state["history"]]
        counted = state.get("by_ability") or [{} for _ in overall]
        return cls(overall, [{name: (right, count) for name, (right, count) in each.items()} for each in counted])

    def state(self) -> dict[str, Any]:
        """What `of` reads."""
        return {"history": self.overall, "by_ability": self.by_ability}

    def take(self, step: int, held_out: Sequence[Group[Episode]]) -> None:
        """Add the measurement after `step` steps. Raises FleetError if no episode has an outcome."""
        trajectories = [episode.trajectory for group in held_out for episode in group.sound]
        if not trajectories:
            last = held_out[-1].episodes[-1].trajectory
            raise FleetError(f"cold start step {step}: no held-out episode has an outcome; the last one: {last.error}")
        self.overall.append((step, float(np.mean([trajectory.correct for trajectory in trajectories]))))
        counts: dict[str, tuple[int, int]] = {}
        for trajectory in trajectories:
            for name in trajectory.abilities:
                right, count = counts.get(name, (0, 0))
                counts[name] = right + trajectory.correct, count + 1
        self.by_ability.append(counts)

    def best(self, plateau: Plateau) -> int:
        """The step after which the policy was best: overall, or in the mean over abilities."""
        return self.overall[max(range(len(self.overall)), key=lambda place: self._score(place, plateau))][0]

    def stopped_rising(self, settings: ColdStartConfig) -> bool:
        """Whether none of the last `patience` measurements was better than all before: overall, or of any ability."""
        if len(self.overall) <= settings.patience:
            return False
        if settings.plateau is Plateau.overall or not all(self.by_ability):
            return _stopped_rising([accuracy for _, accuracy in self.overall], settings.patience, settings.min_gain)
        names = {name for each in self.by_ability for name in each}
        series = ([each[name] for each in self.by_ability if name in each] for name in names)
        return all(
            _stopped_rising(
                [right / count for right, count in measured], settings.patience, max(settings.min_gain, _standard_error(measured))
            )
            for measured in series
        )

    def told(self, step: int) -> str:
        """The accuracies of a step, in words."""
        place = [at for at, _ in self.overall].index(step)
        parts = [f"{name} {right / count:.1%} of {count}" for name, (right, count) in sorted(self.by_ability[place].items())]
        return f"{self.overall[place][1]:.1%}" + (f" ({', '.join(parts)})" if parts else "")

    def _score(self, place: int, plateau: Plateau) -> float:
        counts = self.by_ability[place]
        if plateau is Plateau.overall or not counts:
            return self.overall[place][1]
        return float(np.mean([right / count for right, count in counts.values()]))


def run_cold_start(training: TrainingRun, steps: SupervisedSteps) -> str:
    """Train until held-out accuracy stops rising, and leave the trainer at its best weights; returns their checkpoint."""
    settings = training.config.cold_start
    newest = training.directory.checkpoints.newest(CHECKPOINT)
    measured = Measurements()
    if newest is None:
        training.directory.require_kept(CHECKPOINT)
        training.begin_stage()
    else:
        measured = Measurements.of(training.restore(newest))
    step = measured.overall[-1][0] if measured.overall else 0
    with training.progress("cold start", settings.max_steps) as advance:
        while step < settings.max_steps and not measured.stopped_rising(settings):
            metrics = steps.take(Stage.cold_start, step)
            step += 1
            accuracy = f"{measured.overall[-1][1]:.1%}" if measured.overall else "not measured yet"
            advance(step, f"loss {metrics['train/loss']:.3f}  held-out accuracy {accuracy}")
            if step % settings.evaluate_every == 0 or step == settings.max_steps:
                training.publish()
                measured.take(step, training.sample("validation", settings.validation_episodes, "validation"))
                if settings.plateau is Plateau.ability and not measured.by_ability[-1] and all(measured.by_ability[:-1]):
                    training.say("cold_start.plateau=ability: the held-out tasks name no abilities, so accuracy over all decides")
                best = measured.best(settings.plateau)
                training.save(f"{CHECKPOINT}_{step}", prefix=CHECKPOINT, keep={best}, **measured.state())
    best = measured.best(settings.plateau)
    training.load(f"{CHECKPOINT}_{best}")
    training.say(f"cold start: best held-out accuracy {measured.told(best)} after {best} steps of {step}")
    return training.save(CHECKPOINT, **measured.state(), step=best)


def run_control(training: TrainingRun, steps: SupervisedSteps, seconds: float) -> str:
    """The control of an RL run: the cold-started policy trained on, on the same demonstrations, for as long as RL took.

    Returns its checkpoint.
    """
    training.begin_stage()
    step = training.load(CHECKPOINT)["step"]
    started = time.monotonic()
    with training.progress("control (seconds)", round(seconds)) as advance:
        while (elapsed := time.monotonic() - started) < seconds:
            metrics = steps.take(Stage.control, step)
            step += 1
            advance(round(elapsed), f"step {step}  loss {metrics['train/loss']:.3f}")
    training.publish()
    return training.save("control", step=step)


def _stopped_rising(accuracies: Sequence[float], patience: int, min_gain: float) -> bool:
    """Whether none of the last `patience` accuracies was better than all before by `min_gain`."""
    return len(accuracies) > patience and max(accuracies[-patience:]) < max(accuracies[:-patience]) + min_gain


def _standard_error(measured: Sequence[tuple[int, int]]) -> float:
    """Of the share that the newest measurement found: sqrt(p (1 - p) / n)."""
    right, count = measured[-1]
    return math.sqrt(right / count * (1 - right / count) / count)
