"""The run directory: settings, progress, checkpoints. What is written appears whole or not at all."""

from __future__ import annotations

import json
import shutil
import uuid
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from envs.errors import UsageError
from envs.runtime.atomic import replaced_directory, write_file
from learner.experiment import Experiment

if TYPE_CHECKING:
    from learner.trainer import Trainer


class RunDirectory:
    """`config.yaml`, `progress.json` (what is finished) and `checkpoints/` of one run; nothing is written before `open`.

    Raises UsageError if `config.out` holds a run already and `config.resume` is not set.
    """

    def __init__(self, config: Experiment) -> None:
        self.path = Path(config.out).absolute()
        self.checkpoints = self.path / "checkpoints"
        self._keep = config.rl.keep_checkpoints
        self._progress_file = self.path / "progress.json"
        if self._progress_file.exists() and not config.resume:
            raise UsageError(f"{config.out} holds a run already: write resume=true to go on with it, or another out=")
        self.progress: dict[str, Any] = json.loads(self._progress_file.read_text()) if self._progress_file.exists() else {}

    def open(self, config: Experiment) -> None:
        """Make the directory and write the settings into it."""
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        for unfinished in self.checkpoints.glob(".*"):
            shutil.rmtree(unfinished)
        write_file(self.path / "config.yaml", OmegaConf.to_yaml(OmegaConf.structured(config)))

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

    def save(self, trainer: Trainer, name: str, state: dict[str, Any]) -> Path:
        """Write `checkpoints/<name>` with the trainer's state and `state.json`; an older one of that name is replaced."""
        target = self.checkpoints / name
        with replaced_directory(target) as unfinished:
            trainer.save(unfinished)
            (unfinished / "state.json").write_text(json.dumps(state, indent=2) + "\n")
        return target

    def newest(self, prefix: str) -> Path | None:
        """The checkpoint `<prefix>_N` of the greatest N; None if there is none."""
        numbered = self._numbered(prefix)
        return numbered[max(numbered)] if numbered else None

    def prune(self, prefix: str, keep: set[int] | None = None) -> None:
        """Remove all checkpoints `<prefix>_N` but the newest few and those whose N is in `keep`."""
        numbered = self._numbered(prefix)
        for number in sorted(numbered)[: -self._keep]:
            if number not in (keep or set()):
                shutil.rmtree(numbered[number])

    def _numbered(self, prefix: str) -> dict[int, Path]:
        paths = self.checkpoints.glob(f"{prefix}_*")
        return {int(path.name.removeprefix(f"{prefix}_")): path for path in paths if path.name.removeprefix(f"{prefix}_").isdigit()}


def settings_of(config: Experiment) -> dict[str, Any]:
    """The settings as plain values, for W&B."""
    return json.loads(json.dumps(asdict(config), default=str))
