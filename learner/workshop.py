"""What the stages of a run share: the fleet that rolls out, the learner that updates, and where results go."""

from __future__ import annotations

import json
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Self

from transformers import AutoConfig, AutoProcessor

from console import console
from envs import resolve
from evaluation.records import evaluation_record, merge, read_records, write_records
from evaluation.types import EvaluationRecord
from learner.batch import Collator
from learner.experiment import Experiment
from learner.run_directory import RunDirectory, settings_of
from learner.tracking import Tracker
from learner.verl_backend import Learner
from rollout.cluster.fleet import Fleet
from rollout.collect import Tasks, group_specs
from rollout.store import Store
from rollout.tokens.chat_format import banned_token_ids
from rollout.types import Group


class Workshop:
    """Starts the learner of a run, and its fleet where none is starting already, and holds both while it is entered.

    Ray must be running.
    """

    def __init__(self, config: Experiment, policy_dir: str, directory: RunDirectory, fleet: Future[Fleet] | None) -> None:
        self.config, self.policy_dir, self.directory = config, policy_dir, directory
        self.store = Store(directory.path)
        self._tasks: dict[str, Tasks] = {}
        processor = AutoProcessor.from_pretrained(policy_dir)
        self.batch = Collator(processor)
        config.learner.banned_token_ids = banned_token_ids(
            getattr(processor, "tokenizer", processor), AutoConfig.from_pretrained(policy_dir)
        )
        self.learner = Learner(policy_dir, config.learner)
        self.fleet = fleet.result() if fleet else Fleet(config.rollout)
        self.tracker = Tracker(directory.path, config.tracking, settings_of(config), directory.run_id)
        self.tracker.global_step = directory.progress.get("global_step", 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.tracker.finish()
        self.fleet.shutdown()
        self.learner.shutdown()

    def restore(self, checkpoint: Path) -> dict[str, Any]:
        """Go on from a checkpoint: weights, optimizer, random state. Returns its `state.json`."""
        self.learner.load(checkpoint)
        state = json.loads((checkpoint / "state.json").read_text())
        self.tracker.rewind(state["global_step"])
        self.publish()
        return state

    def save(self, name: str, **state: Any) -> Path:
        """Write a checkpoint from which `restore` goes on."""
        return self.directory.save(self.learner, name, state | {"global_step": self.tracker.global_step})

    def begin_stage(self) -> None:
        """Drop what an earlier, killed attempt at the coming stage has logged."""
        self.tracker.rewind(self.directory.progress.get("global_step", 0))

    def publish(self, version: int | None = None) -> None:
        """Give the fleet the learner's weights; their version is the number of steps so far, over all stages."""
        self.fleet.publish(self.learner.state_dict(), self.tracker.global_step if version is None else version)

    def tasks(self, split: str) -> Tasks:
        """The tasks of a split."""
        if split not in self._tasks:
            self._tasks[split] = resolve(self.config.tasks, getattr(self.config.task_options, split))
        return self._tasks[split]

    def sample(self, name: str, episodes: int, split: str, temperature: float = 1.0) -> list[Group]:
        """Roll the served policy out on held-out tasks, the same ones for every policy."""
        specs = group_specs(name, self.tasks(split), groups=episodes, seed=self.config.evaluation.seed, temperature=temperature)
        return self.fleet.collect(specs)

    def finish(self, stage: str, how: Any = True, **facts: Any) -> None:
        """Remember that a stage is done: a resumed run does not do it again."""
        self.directory.note(**{stage: how}, **facts, global_step=self.tracker.global_step)

    def records(self) -> list[EvaluationRecord]:
        """The records of `evaluation.json` so far."""
        return read_records(self.directory.path / "evaluation.json")

    def evaluate(self, label: str, policy: str) -> list[EvaluationRecord]:
        """Measure the served policy, whose directory is `policy`, on the test split; merge the records into `evaluation.json`."""
        settings = self.config.evaluation
        console.print(f"{label}: measured on {settings.episodes} held-out tasks", highlight=False)
        records = []
        for temperature in settings.temperatures:
            groups = self.sample("test", settings.episodes, "test", temperature)
            records.append(
                evaluation_record(
                    label if temperature else f"{label}_greedy",
                    groups,
                    policy=policy,
                    tasks=self.config.tasks,
                    seed=settings.seed,
                    temperature=temperature,
                )
            )
        write_records(self.directory.path / "evaluation.json", merge(self.records(), records))
        return records
