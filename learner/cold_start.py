"""Cold start: supervised fine-tuning on a fixed set of verified demonstrations, mixed with rehearsal of what the base knows."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np

from console import console, progress
from curation.recorded import read_demonstrations
from envs import resolve
from envs.errors import UsageError
from learner.batch import Batch
from learner.experiment import Stage
from learner.workshop import Workshop
from rollout.collect import group_specs
from rollout.tokens.chat_format import ChatFormat
from rollout.types import Episode, Trajectory, episodes_of

CHECKPOINT = "cold_start"
ATTEMPTS_PER_DEMONSTRATION = 4


def is_verified(trajectory: Trajectory) -> bool:
    """Whether a demonstration may be learned from: its answer is right and none of its tool calls failed (DeepEyesV2 §3.3)."""
    return trajectory.correct and all(turn.succeeded for turn in trajectory.turns)


def collect_demonstrations(shop: Workshop) -> list[Episode]:
    """The fixed set: recorded ones from a file, or expert episodes whose code really ran, the verified ones of them.

    Raises UsageError where too few are, DatasetError for a file that cannot be used.

    A run makes them once and reads them back when it is resumed.
    """
    if "demonstrations" in shop.store.names():
        return list(shop.store.read("demonstrations"))
    settings = shop.config.cold_start
    wanted = settings.demonstrations
    if settings.demonstrations_file is not None:
        recorded = read_demonstrations(
            settings.demonstrations_file,
            ChatFormat.from_directory(shop.policy_dir),
            shop.config.rollout.episode,
            count=wanted,
            seed=shop.config.seed,
            malformed=settings.malformed,
        )
        shop.store.write("demonstrations", recorded)
        return recorded
    kept: list[Episode] = []
    for attempt in range(ATTEMPTS_PER_DEMONSTRATION):
        specs = group_specs(
            "demonstrations", shop.tasks("train"), groups=wanted, seed=shop.config.seed, step=attempt, actor="expert"
        )
        kept += [episode for episode in episodes_of(shop.fleet.collect(specs)) if is_verified(episode.trajectory)]
        if len(kept) >= wanted:
            break
    else:
        raise UsageError(f"the expert gave {len(kept)} verified demonstrations of {wanted}: ask for fewer, or mend the expert")
    shop.store.write("demonstrations", kept[:wanted])
    return kept[:wanted]


def collect_rehearsal(shop: Workshop) -> list[Episode]:
    """Expert episodes of the tasks that the base policy masters already; empty where none are configured. Made once, as above."""
    settings = shop.config.cold_start
    if "rehearsal" in shop.store.names():
        return list(shop.store.read("rehearsal"))
    if not settings.rehearsal_tasks or not settings.rehearsal_batch_size:
        return []
    specs = group_specs(
        "rehearsal", resolve(settings.rehearsal_tasks), groups=settings.rehearsal, seed=shop.config.seed, actor="expert"
    )
    kept = [episode for episode in episodes_of(shop.fleet.collect(specs)) if is_verified(episode.trajectory)]
    if not kept:
        raise UsageError(
            f"no expert episode of cold_start.rehearsal_tasks={settings.rehearsal_tasks} was right: write null for none"
        )
    shop.store.write("rehearsal", kept)
    return kept


class SupervisedSteps:
    """Supervised steps on the demonstrations; step k draws the same batch whenever it is run."""

    def __init__(self, shop: Workshop) -> None:
        self._shop = shop
        self._demonstrations, self._rehearsal = collect_demonstrations(shop), collect_rehearsal(shop)

    def take(self, stage: Stage, step: int) -> dict[str, float]:
        """One optimizer step; returns its metrics."""
        settings = self._shop.config.cold_start
        started = time.monotonic()
        lr = settings.learning_rate * min(1.0, (step + 1) / max(1, settings.warmup_steps))
        metrics = self._shop.learner.supervised_step(self._batch(step), lr)
        metrics["timing_s/step"] = time.monotonic() - started
        self._shop.tracker.log(stage.value, step, metrics)
        return metrics

    def _batch(self, step: int) -> Batch:
        settings = self._shop.config.cold_start
        rng = np.random.default_rng([self._shop.config.seed, step])
        chosen = [
            pool[index]
            for pool, size in ((self._demonstrations, settings.batch_size), (self._rehearsal, settings.rehearsal_batch_size))
            for index in rng.choice(len(pool), size=min(size, len(pool)), replace=False)
        ]
        return self._shop.batch(chosen)


def run_cold_start(shop: Workshop, steps: SupervisedSteps) -> Path:
    """Train until held-out accuracy stops rising, and leave the learner at its best weights; returns their checkpoint."""
    settings, directory = shop.config.cold_start, shop.directory
    newest = directory.newest(CHECKPOINT)
    history: list[tuple[int, float]] = []
    if newest is None:
        shop.begin_stage()
    else:
        history = [tuple(entry) for entry in shop.restore(newest)["history"]]
    step = history[-1][0] if history else 0
    with progress("cold start", settings.max_steps) as advance:
        while step < settings.max_steps and not _stopped_rising(history, settings.patience, settings.min_gain):
            metrics = steps.take(Stage.cold_start, step)
            step += 1
            accuracy = f"{history[-1][1]:.1%}" if history else "not measured yet"
            advance(step, f"loss {metrics['train/loss']:.3f}  held-out accuracy {accuracy}")
            if step % settings.evaluate_every == 0 or step == settings.max_steps:
                shop.publish()
                held_out = shop.sample("validation", settings.validation_episodes, "validation")
                correct = [episode.trajectory.correct for group in held_out for episode in group.sound]
                history.append((step, float(np.mean(correct))))
                shop.save(f"{CHECKPOINT}_{step}", history=history)
                directory.prune(CHECKPOINT, keep={_best(history)[0]})
    best_step, best_accuracy = _best(history)
    shop.learner.load(directory.checkpoints / f"{CHECKPOINT}_{best_step}")
    console.print(f"cold start: best held-out accuracy {best_accuracy:.1%} after {best_step} steps of {step}", highlight=False)
    return shop.save(CHECKPOINT, history=history, step=best_step)


def run_control(shop: Workshop, steps: SupervisedSteps, seconds: float) -> Path:
    """The control of an RL run: the cold-started policy trained on, on the same demonstrations, for as long as RL took.

    Returns its checkpoint.
    """
    shop.begin_stage()
    checkpoint = shop.directory.checkpoints / CHECKPOINT
    shop.learner.load(checkpoint)
    step = json.loads((checkpoint / "state.json").read_text())["step"]
    started = time.monotonic()
    with progress("control (seconds)", round(seconds)) as advance:
        while (elapsed := time.monotonic() - started) < seconds:
            metrics = steps.take(Stage.control, step)
            step += 1
            advance(round(elapsed), f"step {step}  loss {metrics['train/loss']:.3f}")
    shop.publish()
    return shop.save("control", step=step)


def _best(history: list[tuple[int, float]]) -> tuple[int, float]:
    return max(history, key=lambda entry: entry[1])


def _stopped_rising(history: list[tuple[int, float]], patience: int, min_gain: float) -> bool:
    """Whether none of the last `patience` measurements was better than all before by `min_gain`."""
    accuracies = [accuracy for _, accuracy in history]
    return len(accuracies) > patience and max(accuracies[-patience:]) < max(accuracies[:-patience]) + min_gain
