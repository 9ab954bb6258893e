"""What the stages of a run share: its settings and its clock, the trainer and the fleet, and the files that results go to."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from typing import Any, Self

from ray.exceptions import RayError

from envs import row_numbers
from envs.errors import ToolwiseError, UsageError
from envs.rewards import GroupReward, open_group_reward
from envs.runtime.failures import told
from envs.runtime.progress import Progress
from evaluation.records import evaluation_record, merge, read_records, write_records
from evaluation.types import EvaluationRecord
from learner.experiment import Experiment, Stage
from learner.run_files.checkpoints import unreadable
from learner.run_files.run_directory import RunDirectory, settings_of
from learner.run_files.status import RunStatus
from learner.run_files.tracking import Tracker
from learner.trainer import Trainer, checked_weights, ranks_of
from rollout.cluster.deaths import reason
from rollout.cluster.fleet import Fleet
from rollout.collect import Tasks, group_specs
from rollout.episode.environments import tool_names
from rollout.store import Store
from rollout.summary import EpisodeSummary
from rollout.types import Episode, Group, GroupSpec

log = logging.getLogger(__name__)


class TrainingRun:
    """A run that is under way; leaving it closes the tracker, the fleet and the trainer.

    `global_step` counts the updates of the policy over all stages. Only the run changes it: trajectories carry it as the version of
    the policy that sampled them, and metrics are plotted against it.
    """

    def __init__(
        self,
        config: Experiment,
        policy_dir: str,
        directory: RunDirectory,
        *,
        trainer: Trainer,
        fleet: Fleet,
        rows: Mapping[str, Sequence[int] | None] | None = None,
        progress: Progress,
        say: Callable[[str], None],
        status: RunStatus | None = None,
    ) -> None:
        """`policy_dir` is the base policy's. `rows` are those of the splits that are asked, None for all. `progress` and
        `say` show a person how the run goes on; `status` is told as well."""
        self.config, self.policy_dir, self.directory = config, policy_dir, directory
        self.trainer, self.fleet = trainer, fleet
        self.status = status or RunStatus()
        self.status.follow(fleet.status)
        self.progress, self.say = self.status.watched(progress), say
        self.store = Store(directory.path)
        self.tracker = Tracker(
            directory.path, config.tracking, settings_of(config), directory.run_id, policy_dir=policy_dir, say=say
        )
        self.global_step: int = directory.progress.get("global_step", 0)
        self._tasks: dict[str, Tasks] = {}
        self._rows = dict(rows or {})
        self._played = "base" in directory.progress
        self._waking_s: float | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        saved = partial(self.directory.finish_saving, self.trainer)
        for close in (saved, self.tracker.finish, self.fleet.shutdown, self.trainer.shutdown):
            try:
                close()
            except Exception as failure:
                # What has died cannot be closed: the run ends with the reason of its death, not with that.
                if error is None:
                    error = failure
                elif close is saved:
                    known = reason(failure) if isinstance(failure, RayError) else failure
                    why = known if isinstance(known, str | ToolwiseError | OSError) else told(known)
                    self.say(f"the last checkpoint was not written: {why}")
                else:
                    log.warning("closing after an error", exc_info=True)
        if kind is None and error is not None:
            raise error

    @property
    def version(self) -> int:
        """The version under which the fleet serves the trainer's present weights."""
        return self.global_step

    def count_step(self) -> None:
        """Count an update of the policy, as soon as the trainer has made it."""
        self.global_step += 1

    def log(
        self,
        stage: Stage,
        step: int,
        metrics: dict[str, float],
        *,
        episodes: Sequence[EpisodeSummary] = (),
        stored_as: str | None = None,
    ) -> None:
        """Record the metrics of the update that was counted last, the one that led from `global_step - 1` to `global_step`.

        `episodes` are those that it learned from, stored as `trajectories/<stored_as>`.
        """
        record = self.tracker.log(stage.value, step, self.global_step - 1, metrics, episodes=episodes, stored_as=stored_as)
        self.status.take(record)

    def alert(self, title: str, text: str) -> None:
        """An alarm rings: it stands in `status.json`, and W&B passes it on."""
        self.status.alarm(text)
        self.tracker.alert(title, text)

    def rewind(self, global_step: int) -> None:
        """Go on from `global_step`, and drop the metrics of the updates after it: they will be made again."""
        self.global_step = global_step
        self.tracker.drop_from(global_step)
        self.status.rewind(self.tracker.path, global_step)

    def begin_stage(self) -> None:
        """Rewind to the end of the last finished stage, in case an earlier attempt at this one was killed before a checkpoint."""
        self.rewind(self.directory.progress.get("global_step", 0))

    def finish(self, stage: str, how: Any = True, **facts: Any) -> None:
        """Remember that a stage is done, once its checkpoint is there: a resumed run does not do it again."""
        self.directory.finish_saving(self.trainer)
        self.directory.note(**{stage: how}, **facts, global_step=self.global_step)

    def save(self, name: str, *, prefix: str | None = None, keep: Collection[int] = (), **state: Any) -> str:
        """Write a checkpoint from which `restore` goes on, in the background, once all trajectories before it are written.

        Returns its path or URL. See `RunDirectory.save`.
        """
        with self.status.doing("checkpoint"):
            self.fleet.flush()
            return self.directory.save(self.trainer, name, state | {"global_step": self.global_step}, prefix=prefix, keep=keep)

    def load(self, name: str) -> dict[str, Any]:
        """Give the trainer the state of a checkpoint. Returns its `state.json`. Raises UsageError if it cannot be read."""
        self.directory.finish_saving(self.trainer)
        location = self.directory.checkpoints.location(name)
        try:
            state = self.directory.checkpoints.state(name)
            if not isinstance(state, dict) or not isinstance(state.get("global_step"), int):
                raise ValueError("its state.json has no global_step")
            self.trainer.load(location)
        except (OSError, ValueError) as error:
            raise UsageError(unreadable(location, error)) from error
        return state

    def restore(self, name: str) -> dict[str, Any]:
        """Go on from a checkpoint, and serve its weights. Returns its `state.json`."""
        state = self.load(name)
        self.rewind(state["global_step"])
        self.publish()
        return state

    def publish(self) -> None:
        """Serve the trainer's weights."""
        if self.fleet.servers is None:
            self.fleet.publish(checked_weights(self.trainer.share_weights(self.fleet.dtype)), self.version)
        elif not self.config.shares_gpus:  # those are given the weights when they wake up
            self.fleet.servers.update(ranks_of(self.trainer), self.version)

    def waking_metrics(self) -> dict[str, float]:
        """`timing_s/update_weights`: the seconds since this was last asked in which servers on the learner's GPUs woke up and took
        its weights; nothing if there are no such servers."""
        seconds, self._waking_s = self._waking_s, None
        return {} if seconds is None else {"timing_s/update_weights": seconds}

    def rollout(self, groups: Sequence[GroupSpec]) -> list[Group[Episode]]:
        """Run groups of episodes on the fleet: one outcome for each, in their order."""
        with self._serving():
            # Once questions have been put to the policy, some that cannot be are no reason to end the run.
            return self._remember(self.fleet.collect(groups, played=self._played))

    def play(self, name: str, groups: Sequence[GroupSpec]) -> list[Group[EpisodeSummary]]:
        """Run groups of episodes that stay with the workers, who write them as `trajectories/<name>`: a summary of each, in their
        order."""
        with self._serving():
            return self._remember(self.fleet.play(groups, self.store, name, played=self._played))

    @contextmanager
    def _serving(self) -> Generator[None]:
        """While episodes are played; servers on the learner's GPUs are awake only then."""
        servers = self.fleet.servers
        if servers is None or not self.config.shares_gpus:
            yield
            return
        started = time.monotonic()
        servers.update(ranks_of(self.trainer), self.version)
        self._waking_s = (self._waking_s or 0.0) + time.monotonic() - started
        try:
            yield
        finally:
            servers.sleep()

    def _remember[E: (Episode, EpisodeSummary)](self, groups: list[Group[E]]) -> list[Group[E]]:
        self._played |= any(not (episode.failed or episode.unplayed) for group in groups for episode in group.episodes)
        return groups

    def sample(self, name: str, episodes: int, split: str, temperature: float = 1.0) -> list[Group[Episode]]:
        """Roll the served policy out on held-out tasks, the same ones for every policy: of a file, each row at most once."""
        tasks, rows, seed = self.tasks(split), self.rows(split), self.config.evaluation.seed
        groups = self._most(episodes, split)
        with self.status.doing(f"measurement on {split} tasks"):
            return self.rollout(group_specs(name, tasks, groups=groups, seed=seed, temperature=temperature, rows=rows))

    def tasks(self, split: str) -> Tasks:
        """The tasks of a split."""
        if split not in self._tasks:
            self._tasks[split] = self.config.tasks_of(split)
        return self._tasks[split]

    def rows(self, split: str) -> Sequence[int] | None:
        """The rows of a split, by their numbers in the file; None if its tasks are generated."""
        if split not in self._rows:
            self._rows[split] = row_numbers(*self.tasks(split))
        return self._rows[split]

    def _most(self, episodes: int, split: str) -> int:
        """The number of tasks of a measurement: `episodes`, or all rows of a file that has fewer."""
        rows = self.rows(split)
        return episodes if rows is None else min(episodes, len(rows))

    @cached_property
    def tools(self) -> tuple[str, ...]:
        """The tools that the training tasks offer."""
        return tool_names(*self.tasks("train"))

    @cached_property
    def group_reward(self) -> GroupReward | None:
        """The parts of the reward that compare the episodes of a group; None if there are none."""
        return open_group_reward(self.tasks("train")[1].get("reward"))

    def records(self) -> list[EvaluationRecord]:
        """The records of `evaluation.json` so far. Raises UsageError if it is damaged."""
        path = self.directory.path / "evaluation.json"
        try:
            return read_records(path)
        except ValueError as error:
            raise UsageError(
                f"{path} is damaged ({error}): remove it, with the figures of earlier stages, and write resume=true"
            ) from error

    def evaluate(self, label: str, policy: str) -> list[EvaluationRecord]:
        """Measure the served policy, whose directory is `policy`, on the test split; merge the records into `evaluation.json`."""
        settings = self.config.evaluation
        self.say(f"{label}: measured on {self._most(settings.episodes, 'test')} held-out tasks")
        records = [
            evaluation_record(
                label if temperature else f"{label}_greedy",
                self.sample("test", settings.episodes, "test", temperature),
                policy=policy,
                tasks=self.config.tasks,
                seed=settings.seed,
                temperature=temperature,
                offered=self.tools,
            )
            for temperature in settings.temperatures
        ]
        write_records(self.directory.path / "evaluation.json", merge(self.records(), records))
        return records
