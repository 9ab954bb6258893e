"""Cold start: supervised fine-tuning on a fixed set of verified demonstrations, mixed with rehearsal of what the base knows."""

from __future__ import annotations

import time

import numpy as np

from curation.recorded import read_demonstrations
from curation.verify import is_verified
from envs import resolve
from envs.errors import UsageError
from learner.batch import Batch, Example
from learner.experiment import Stage
from learner.training_run import TrainingRun
from rollout.specs import draw, group_specs
from rollout.tokens.chat_format import ChatFormat
from rollout.types import Episode, episodes_of

CHECKPOINT = "cold_start"
ATTEMPTS_PER_DEMONSTRATION = 4


def collect_demonstrations(training: TrainingRun) -> list[Episode]:
    """The fixed set: demonstrations from a file, or verified episodes of the tasks' expert, whose code really ran.

    A run makes them once and reads them back when it is resumed. Raises UsageError if there are too few, DatasetError if the file
    cannot be used.
    """
    if "demonstrations" in training.store.names():
        return list(training.store.read("demonstrations"))
    settings, seed = training.config.cold_start, training.config.seed
    wanted = settings.demonstrations
    if settings.demonstrations_file is not None:
        recorded = read_demonstrations(
            settings.demonstrations_file,
            ChatFormat.from_directory(training.policy_dir),
            training.config.rollout.episode,
            count=wanted,
            seed=seed,
            malformed=settings.malformed,
        )
        training.store.write("demonstrations", recorded)
        return recorded
    kept: list[Episode] = []
    for attempt in range(ATTEMPTS_PER_DEMONSTRATION):
        specs = group_specs(
            "demonstrations",
            training.tasks("train"),
            groups=wanted,
            seed=seed,
            step=attempt,
            actor="expert",
            rows=training.rows("train"),
            first=attempt * wanted,
        )
        kept += [episode for episode in episodes_of(training.rollout(specs)) if is_verified(episode.trajectory)]
        if len(kept) >= wanted:
            break
    else:
        raise UsageError(
            f"the expert gave {len(kept)} verified demonstrations of {wanted}: "
            "lower cold_start.demonstrations, or correct the expert of the tasks"
        )
    training.store.write("demonstrations", kept[:wanted])
    return kept[:wanted]


def collect_rehearsal(training: TrainingRun) -> list[Episode]:
    """Verified expert episodes of the tasks that the base policy masters already, made once; empty if none are configured.

    Raises UsageError if no episode is verified.
    """
    settings = training.config.cold_start
    if "rehearsal" in training.store.names():
        return list(training.store.read("rehearsal"))
    if not settings.rehearsal_tasks or not settings.rehearsal_batch_size:
        return []
    specs = group_specs(
        "rehearsal", resolve(settings.rehearsal_tasks), groups=settings.rehearsal, seed=training.config.seed, actor="expert"
    )
    kept = [episode for episode in episodes_of(training.rollout(specs)) if is_verified(episode.trajectory)]
    if not kept:
        raise UsageError(
            f"no expert episode of cold_start.rehearsal_tasks={settings.rehearsal_tasks} was right: write null for none"
        )
    training.store.write("rehearsal", kept)
    return kept


class SupervisedSteps:
    """Supervised steps on the demonstrations, epoch by epoch; step k draws the same batch whenever it is run."""

    def __init__(self, training: TrainingRun) -> None:
        self._training = training
        episodes = collect_demonstrations(training), collect_rehearsal(training)
        self._demonstrations, self._rehearsal = ([Example.of(episode) for episode in pool] for pool in episodes)

    def take(self, stage: Stage, step: int) -> dict[str, float]:
        """One optimizer step; returns its metrics."""
        settings = self._training.config.cold_start
        started = time.monotonic()
        lr = settings.learning_rate * min(1.0, (step + 1) / max(1, settings.warmup_steps))
        metrics = self._training.trainer.supervised_step(self._batch(step), lr)
        self._training.count_step()
        metrics["timing_s/step"] = time.monotonic() - started
        self._training.log(stage, step, metrics)
        return metrics

    def _batch(self, step: int) -> Batch:
        settings, chosen = self._training.config.cold_start, []
        for name, pool, most in (
            ("demonstrations", self._demonstrations, settings.batch_size),
            ("rehearsal", self._rehearsal, settings.rehearsal_batch_size),
        ):
            size = min(most, len(pool))
            chosen += draw(pool, size, seed=self._training.config.seed, name=name, first=step * size) if size else []
        return Batch.of(chosen)


def run_cold_start(training: TrainingRun, steps: SupervisedSteps) -> str:
    """Train until held-out accuracy stops rising, and leave the trainer at its best weights; returns their checkpoint."""
    settings = training.config.cold_start
    newest = training.directory.checkpoints.newest(CHECKPOINT)
    history: list[tuple[int, float]] = []
    if newest is None:
        training.begin_stage()
    else:
        history = [tuple(entry) for entry in training.restore(newest)["history"]]
    step = history[-1][0] if history else 0
    with training.progress("cold start", settings.max_steps) as advance:
        while step < settings.max_steps and not _stopped_rising(history, settings.patience, settings.min_gain):
            metrics = steps.take(Stage.cold_start, step)
            step += 1
            accuracy = f"{history[-1][1]:.1%}" if history else "not measured yet"
            advance(step, f"loss {metrics['train/loss']:.3f}  held-out accuracy {accuracy}")
            if step % settings.evaluate_every == 0 or step == settings.max_steps:
                training.publish()
                held_out = training.sample("validation", settings.validation_episodes, "validation")
                correct = [episode.trajectory.correct for group in held_out for episode in group.sound]
                history.append((step, float(np.mean(correct))))
                training.save(f"{CHECKPOINT}_{step}", prefix=CHECKPOINT, keep={_best(history)[0]}, history=history)
    best_step, best_accuracy = _best(history)
    training.load(f"{CHECKPOINT}_{best_step}")
    training.say(f"cold start: best held-out accuracy {best_accuracy:.1%} after {best_step} steps of {step}")
    return training.save(CHECKPOINT, history=history, step=best_step)


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


def _best(history: list[tuple[int, float]]) -> tuple[int, float]:
    return max(history, key=lambda entry: entry[1])


def _stopped_rising(history: list[tuple[int, float]], patience: int, min_gain: float) -> bool:
    """Whether none of the last `patience` measurements was better than all before by `min_gain`."""
    accuracies = [accuracy for _, accuracy in history]
    return len(accuracies) > patience and max(accuracies[-patience:]) < max(accuracies[:-patience]) + min_gain
