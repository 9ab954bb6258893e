"""Settings of a whole run. These dataclasses own the defaults; `configs/` holds the choices, the command line the overrides."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from envs import resolve
from envs.datasets import is_dataset
from envs.errors import UsageError
from envs.rewards import open_group_reward
from envs.runtime.imports import import_path
from learner.config import LearnerConfig
from learner.monitoring import AlarmAction as AlarmAction
from learner.monitoring import AlarmConfig, TrackingConfig
from learner.trainer import TRAINERS, find_trainer
from learner.verl.configuration.passthrough import compares_within_groups
from rollout.config import RolloutConfig
from rollout.engines.registry import ENGINES
from rollout.specs import Tasks


class Schedule(StrEnum):
    """How the learning rate goes on after its warm-up: as it is, or down to the end of the run along half a cosine or a line."""

    constant = "constant"
    cosine = "cosine"
    linear = "linear"


class Stage(StrEnum):
    """What a run goes through, in this order."""

    cold_start = "cold_start"
    rl = "rl"
    control = "control"


@dataclass
class TaskOptions:
    """Keyword arguments of the environment for each split; held-out tasks must never be trained on."""

    train: dict[str, Any] = field(default_factory=lambda: {"split": "train"})
    """Of the tasks that are learned from."""

    validation: dict[str, Any] = field(default_factory=lambda: {"split": "validation"})
    """Of those that end the cold start."""

    test: dict[str, Any] = field(default_factory=lambda: {"split": "test"})
    """Of those of `evaluation.json`."""


EXPERT = "expert"
"""The path that stands for the scripted expert of the tasks."""


@dataclass
class DemonstrationSource:
    """One of the sources that demonstrations are mixed from."""

    path: str = EXPERT
    """A file of conversations, a run directory with `trajectories/` or one of its files, or expert: the tasks' script."""

    weight: float | None = None
    """Its share of the demonstrations that are drawn, relative to the other sources' weights; null for all: each demonstration is
    drawn equally often."""

    demonstrations: int | None = None
    """How many are taken of it, drawn by the seed; null: all that it has, or `cold_start.demonstrations` of the expert's."""


class Loss(StrEnum):
    """Over what the loss of the cold start is a mean: over sampled tokens, or over sequences of each one's mean."""

    token = "token"
    sequence = "sequence"


class Plateau(StrEnum):
    """What has to stop rising for the cold start to end: accuracy over all held-out tasks, or that of each ability."""

    overall = "overall"
    ability = "ability"


@dataclass
class ColdStartConfig:
    """Supervised fine-tuning on verified demonstrations, until held-out accuracy stops rising."""

    demonstrations: int = 128
    """Size of the fixed set of demonstrations: correct, and every piece of code in them ran without an error."""

    demonstrations_file: str | None = None
    """A file of recorded demonstrations, in ShareGPT's or OpenAI's form, from which they are drawn; null: the tasks' expert makes
    them."""

    sources: list[DemonstrationSource] = field(default_factory=list)
    """Several sources in place of that file, as in '[{path: a.json, weight: 2}, {path: runs/teacher, weight: 1}]'."""

    ability_weights: dict[str, float] = field(default_factory=dict)
    """The share of each ability in what is drawn of a source, relative to the others'; empty: what there is of it."""

    loss: Loss = Loss.token
    """token: every sampled token counts alike, so long demonstrations count more; sequence: every demonstration does."""

    malformed: str = "error"
    """What is done with rows of a file that cannot be used: "error" names them and stops, "skip" names them and goes on."""

    rehearsal_tasks: str | None = "toolwise/Basics-v0"
    """Environment whose expert episodes are mixed in so that the base's own skills are kept; null for none."""

    rehearsal: int = 1024
    """Size of the fixed set of rehearsal episodes."""

    batch_size: int = 24
    """Demonstrations in one step."""

    rehearsal_batch_size: int = 12
    """Rehearsal episodes in one step."""

    learning_rate: float = 8e-4
    """AdamW's, after the warm-up."""

    warmup_steps: int = 10
    """Steps over which the learning rate rises from 0."""

    max_steps: int = 600
    """The cold start ends here even if accuracy still rises."""

    evaluate_every: int = 60
    """Steps between two measurements of held-out accuracy."""

    validation_episodes: int = 256
    """Episodes of one measurement, sampled at temperature 1 on the validation split."""

    patience: int = 2
    """Measurements without a rise by `min_gain` after which the cold start ends; the best weights are kept."""

    min_gain: float = 0.01
    """What counts as a rise, as a share of episodes."""

    plateau: Plateau = Plateau.overall
    """overall: the cold start ends when accuracy over all held-out tasks has stopped rising, and keeps the weights with the best;
    ability: when no ability's accuracy rises any more, and it keeps those with the best mean over abilities. A rise of an ability
    is also more than the standard error of its measurement, since of few episodes chance alone would make a new best."""

    @property
    def asks_the_expert(self) -> bool:
        """Whether the tasks' script demonstrates."""
        alone = not self.sources and self.demonstrations_file is None
        return alone or any(source.path == EXPERT for source in self.sources)

    def check_sources(self) -> None:
        """Raise UsageError if there is no such file of demonstrations, or a weight or a number makes no sense."""
        if self.sources and self.demonstrations_file is not None:
            raise UsageError("cold_start.demonstrations_file and cold_start.sources: write the file as one of the sources")
        for path in [source.path for source in self.sources] + [self.demonstrations_file or EXPERT]:
            if path != EXPERT and not Path(path).exists():
                raise UsageError(
                    f"there are no demonstrations at {path}: write a file of conversations, or a run with trajectories/"
                )
        for source in self.sources:
            if source.weight is not None and not 0 <= source.weight < math.inf:
                raise UsageError(f"cold_start.sources: {source.path} has the weight {source.weight:g}: write 0 or more")
            if source.demonstrations is not None and source.demonstrations < 1:
                raise UsageError(f"cold_start.sources: {source.path} has demonstrations={source.demonstrations}: write 1 or more")
        if wrong := [name for name, weight in self.ability_weights.items() if not 0 <= weight < math.inf]:
            raise UsageError(f"cold_start.ability_weights.{wrong[0]}={self.ability_weights[wrong[0]]:g}: write 0 or more")


class OnDeadline(StrEnum):
    """What becomes of an episode that a deadline cuts off while it is rolled out for training."""

    mask = "mask"
    repeat = "repeat"


@dataclass
class RLConfig:
    """Group-relative policy optimisation on fresh tasks."""

    steps: int = 100
    """Policy updates."""

    groups: int = 16
    """Tasks in one step."""

    group_size: int = 8
    """Episodes of one task."""

    learning_rate: float = 2e-4
    """AdamW's, after the warm-up."""

    warmup_steps: int = 0
    """Steps over which the learning rate rises from 0."""

    schedule: Schedule = Schedule.constant
    """What the learning rate does after the warm-up: constant, cosine or linear, down to the last step."""

    min_learning_rate_ratio: float = 0.0
    """What cosine and linear end at, as a share of the learning rate."""

    temperature: float = 1.0
    """Sampling temperature of the rollouts."""

    on_deadline: OnDeadline = OnDeadline.mask
    """What becomes of an episode that a deadline of `rollout` cuts off. Its reward so far is never learned from: "mask" leaves it
    on record and in the figures, out of the gradient and of its group's baseline; "repeat" runs it again with the same seeds, up
    to `rollout.attempts` times in all, and then masks it. Others mask and do not repeat (SkyRL, an agent that ran out of time): a
    machine that is too slow once is often too slow again, and every repetition holds up the step."""

    checkpoint_every: int = 10
    """Steps between two checkpoints."""

    keep_checkpoints: int = 2
    """How many of the newest checkpoints of a stage are kept."""

    record_learned: bool = True
    """Whether each step writes the advantages and the log-probabilities of what it learned from, `learned/` in the run directory: 1
    to 4 bytes a sampled token."""

    def learning_rate_at(self, step: int) -> float:
        """The learning rate of a step, counted from 0, as verl's schedules have it if their steps are counted from 1."""
        done = step + 1
        if done < self.warmup_steps:
            return self.learning_rate * done / self.warmup_steps
        progress = min(1.0, (done - self.warmup_steps) / max(1, self.steps - self.warmup_steps))
        left = {Schedule.constant: 1.0, Schedule.cosine: (1 + math.cos(math.pi * progress)) / 2, Schedule.linear: 1 - progress}
        return self.learning_rate * (self.min_learning_rate_ratio + (1 - self.min_learning_rate_ratio) * left[self.schedule])


@dataclass
class CheckpointConfig:
    """Where checkpoints are kept, and which one beside the newest."""

    dir: str | None = None
    """A directory that all machines see, or any URL that fsspec knows, such as s3://bucket/run; null: `checkpoints/` in `out`."""

    best: str | None = None
    """Name of a metric of RL's steps, such as critic/score/mean: the checkpoint with its largest mean over the steps since the
    checkpoint before is kept as well; null for none."""


@dataclass
class HeldOutConfig:
    """The evaluations of a run, after each of its stages, on the test split."""

    episodes: int = 400
    """Episodes of one record."""

    temperatures: list[float] = field(default_factory=lambda: [1.0])
    """One record for each; that of temperature 0 is labelled `…_greedy`."""

    seed: int = 1_000_003
    """Seed of the evaluation tasks: the same for every policy of a run, whatever the run's own seed."""


@dataclass
class Experiment:
    """Everything that a run needs to be repeated."""

    out: str = "runs/train"
    """The run directory."""

    seed: int = 0
    """Seeds tasks, sampling, batches and the learner."""

    resume: bool = False
    """Go on from the newest checkpoint in `out`, or begin if there is none."""

    policy: str = "starter"
    """A directory in the Hugging Face layout; `starter` is the policy that the project ships."""

    tasks: str = "toolwise/Microworld-v0"
    """An environment id, a file of questions (.jsonl, .json, .parquet, .tsv, .csv) or a directory of Hugging Face's `datasets`."""

    options: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the environment for all splits, as in +options.protocol=hermes."""

    task_options: TaskOptions = field(default_factory=TaskOptions)
    stages: list[Stage] = field(default_factory=lambda: [Stage.cold_start, Stage.rl])
    """What is done, in order; `control` goes on with the cold start for as long as RL took."""

    cold_start: ColdStartConfig = field(default_factory=ColdStartConfig)
    rl: RLConfig = field(default_factory=RLConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    evaluation: HeldOutConfig = field(default_factory=HeldOutConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    alarm: AlarmConfig = field(default_factory=AlarmConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    def tasks_of(self, split: str) -> Tasks:
        """The tasks of a split; its own options outrank those for all, and null leaves one out. Raises what `resolve` raises."""
        options = self.options | getattr(self.task_options, split)
        return resolve(self.tasks, {name: value for name, value in options.items() if value is not None})

    @property
    def shares_gpus(self) -> bool:
        """Whether verl's servers run on the learner's GPUs, and sleep while it learns."""
        return self.rollout.engine.kind == "verl" and self.rollout.servers == 0

    def _check_servers(self) -> None:
        learner, across = self.learner, self.rollout.engine.tensor_parallel_size
        if learner.kind not in TRAINERS and not hasattr(find_trainer(learner.kind), "ranks"):
            raise UsageError(
                f"rollout.engine.kind=verl takes weights from learner.kind=verl, or from a class derived from it: {learner.kind} "
                "has no ranks()"
            )
        if self.shares_gpus and (learner.gpus_per_worker != 1 or learner.workers % across):
            raise UsageError(
                f"rollout.servers=0 puts servers of {across} GPUs each on those of the learner: write learner.gpus_per_worker=1 "
                f"and learner.workers as a multiple of {across}, or rollout.servers=1 for a server of its own"
            )

    def check(self, finished: Collection[str] = ()) -> None:
        """Raise UsageError if these settings contradict each other. `finished` are the stages that the run has behind it."""
        if self.rollout.engine.kind in ("endpoint", "none"):
            raise UsageError(f"rollout.engine.kind={self.rollout.engine.kind} takes no new weights: leave it out to train")
        import_path("rollout.engine.kind", self.rollout.engine.kind, ENGINES)  # raises UsageError
        if self.rollout.engine.kind == "verl":
            self._check_servers()
        if Stage.control in self.stages and not {Stage.cold_start, Stage.rl} <= {*self.stages, *finished}:
            raise UsageError("the control goes on with a cold start for as long as RL took: write stages=[cold_start,rl,control]")
        if Stage.rl in self.stages and self.rl.group_size == 1 and compares_within_groups(self.learner):
            raise UsageError(
                "rl.group_size=1: the advantage estimator compares the episodes of a group: write 2 or more, or "
                "+learner.verl.algorithm.adv_estimator=reinforce_plus_plus"
            )
        if Stage.rl in self.stages and self.rl.group_size == 1 and open_group_reward(self.tasks_of("train")[1].get("reward")):
            raise UsageError("rl.group_size=1: a part of the reward compares the episodes of a group: write 2 or more")
        if Stage.rl in self.stages and self.rl.temperature == 0:
            raise UsageError("rl.temperature=0: all episodes of a task would be alike, and nothing learned: write more than 0")
        if Stage.cold_start in self.stages and Stage.cold_start not in finished:
            self.cold_start.check_sources()
            if self.cold_start.asks_the_expert and is_dataset(self.tasks):
                raise UsageError(
                    f"{self.tasks} is a file of questions, which has no scripted expert to learn from: write "
                    "cold_start.demonstrations_file=FILE, cold_start.sources='[{path: …}]', or stages=[rl]"
                )
        longest, room = self.rollout.episode.max_tokens, self.rollout.engine.max_model_len
        if longest > room:
            raise UsageError(f"rollout.episode.max_tokens={longest} is more than rollout.engine.max_model_len={room}: lower it")
        for name, value in (
            ("evaluation.episodes", self.evaluation.episodes),
            ("cold_start.evaluate_every", self.cold_start.evaluate_every),
            ("cold_start.patience", self.cold_start.patience),
            ("rl.groups", self.rl.groups),
            ("rl.group_size", self.rl.group_size),
            ("rl.checkpoint_every", self.rl.checkpoint_every),
            ("rl.keep_checkpoints", self.rl.keep_checkpoints),
        ):
            if value < 1:
                raise UsageError(f"{name}={value}: write 1 or more")
        self.tracking.check()
        self.alarm.check()
        self.learner.check()
