"""The run directory: settings, progress, checkpoints. What is written appears whole or not at all."""

from __future__ import annotations

import json
import uuid
from collections.abc import Collection
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from envs.errors import FleetError, UsageError
from envs.runtime.atomic import write_file
from learner.experiment import Experiment
from learner.run_files.checkpoints import Checkpoints

if TYPE_CHECKING:
    from learner.trainer import Trainer


class RunDirectory:
    """`config.yaml`, `progress.json` (what is finished) and the checkpoints of one run; nothing is written before `open`.

    Raises UsageError if `config.out` holds a run already and `config.resume` is not set, and if `config.checkpoint.dir` cannot be
    used, holds another run's checkpoints or is not the one that the run began with, or if `progress.json` is damaged or
    `config.yaml` gone.
    """

    def __init__(self, config: Experiment) -> None:
        self.path = Path(config.out).absolute()
        elsewhere = config.checkpoint.dir
        self.checkpoints = Checkpoints(elsewhere or self.path / "checkpoints", config.rl.keep_checkpoints)
        self._unfinished: tuple[str, str] | None = None
        self._progress_file = self.path / "progress.json"
        if self._progress_file.exists() and not config.resume:
            raise UsageError(f"{config.out} holds a run already: write resume=true to go on with it, or another out=")
        self.progress: dict[str, Any] = self._read_progress() if self._progress_file.exists() else {}
        settings = self.path / "config.yaml"
        if self.progress and not settings.exists():
            raise UsageError(f"{settings}, with the settings of the run, is gone: put it back, or write another out=")
        if self.progress and (began := self.progress.get("checkpoint_dir")) != elsewhere:
            raise UsageError(f"{config.out} began with checkpoint.dir={began or 'null'}, where its checkpoints are: write the same")
        if elsewhere and not self.progress and self.checkpoints.names():
            raise UsageError(f"checkpoint.dir={elsewhere} holds the checkpoints of another run: write an empty or a new one")

    def open(self, config: Experiment) -> None:
        """Make the directory and write the settings into it."""
        self.checkpoints.open()
        write_file(self.path / "config.yaml", OmegaConf.to_yaml(OmegaConf.structured(config)))
        if config.checkpoint.dir:
            self.note(checkpoint_dir=config.checkpoint.dir)

    def _read_progress(self) -> dict[str, Any]:
        try:
            progress = json.loads(self._progress_file.read_text())
            if not isinstance(progress, dict):
                raise ValueError("it is no JSON object")
            return progress
        except ValueError as error:
            raise UsageError(
                f"{self._progress_file} is damaged ({error}): remove it, and resume=true measures the base again and goes on from "
                "the newest checkpoint"
            ) from error

    @property
    def run_id(self) -> str:
        """The run's identity in W&B, kept when it is resumed."""
        if "run_id" not in self.progress:
            self.note(run_id=uuid.uuid4().hex[:12])
        return self.progress["run_id"]

    def note(self, **progress: Any) -> None:
        """Remember something about the run that a resumed one needs."""
        self.progress |= progress
        write_file(self._progress_file, json.dumps(self.progress, indent=2) + "\n")

    def forget(self, name: str) -> None:
        """Let a stage be done again."""
        self.progress.pop(name, None)
        self.note()

    def save(
        self, trainer: Trainer, name: str, state: dict[str, Any], *, prefix: str | None = None, keep: Collection[int] = ()
    ) -> str:
        """Write the checkpoint `name` with the trainer's state and `state.json`; an older one of that name is replaced.

        It is there once the trainer has written it, which may be after this returns; `Checkpoints.commit` tells what `prefix` and
        `keep` then do. Waits for the one before, and raises what went wrong with it. Returns the path or URL.
        """
        self.finish_saving(trainer)
        unfinished = self.checkpoints.begin(name)
        self._unfinished = name, prefix or name
        try:
            trainer.save(unfinished, partial(self.checkpoints.commit, name, state, prefix, keep))
        except BaseException:
            self.checkpoints.discard(name)
            raise
        return self.checkpoints.location(name)

    def finish_saving(self, trainer: Trainer) -> None:
        """Wait until the last checkpoint is there. Raises what went wrong with it, and removes what was written of it."""
        unfinished, self._unfinished = self._unfinished, None
        if unfinished is not None:
            name, stage = unfinished
            try:
                trainer.finish_saving()
                if not self.checkpoints.exists(name):
                    where = self.checkpoints.location(name)
                    raise FleetError(f"the checkpoint {where} is not there: something removed it, or save() never called `done`")
            except BaseException:
                self.checkpoints.discard(name)
                raise
            self.note(saved=self.progress.get("saved", {}) | {stage: name})

    def require_kept(self, stage: str) -> None:
        """Raise UsageError if a stage had checkpoints and has none any more: nobody asked to begin it anew."""
        last = self.progress.get("saved", {}).get(stage) or (stage if stage in self.progress else None)
        if last is not None:
            raise UsageError(
                f"{self.checkpoints.location(last)} is not there any more, nor any other checkpoint of its stage: put it back, or "
                "write another out= to begin anew"
            )


def settings_of(config: Experiment) -> dict[str, Any]:
    """The settings as plain values, for W&B."""
    return json.loads(json.dumps(asdict(config), default=str))
