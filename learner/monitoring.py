"""Settings of how a run is watched: by Weights & Biases, and by the collapse alarm. Part of `learner.experiment`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import StrEnum

from envs.errors import UsageError

_MODES = ("online", "offline", "disabled")


@dataclass
class TrackingConfig:
    """Weights & Biases."""

    project: str | None = None
    """Project of the run; null: WANDB_PROJECT, else toolwise."""

    mode: str | None = None
    """online, offline or disabled; null: WANDB_MODE, else online if WANDB_API_KEY is set, else offline."""

    table_every: int | None = 10
    """Steps of RL between two tables of episodes, with their pictures, and the histograms of all of them, in W&B; null for none."""

    table_episodes: int = 8
    """Episodes in such a table, four of a group at most."""

    init_s: float = 60.0
    """How long a W&B server may take to accept the run, in seconds; after that it is kept offline. No step waits for it."""

    finish_s: float = 60.0
    """How long the end of a run waits for W&B, in seconds."""

    @property
    def chosen_mode(self) -> str:
        """The mode that the setting, or else the environment, asks for."""
        asked = self.mode or os.environ.get("WANDB_MODE")
        return asked or ("online" if os.environ.get("WANDB_API_KEY") else "offline")

    def check(self) -> None:
        """Raise UsageError if a value makes no sense."""
        if self.mode not in (None, *_MODES):
            raise UsageError(f"tracking.mode={self.mode}: write online, offline, disabled or null")
        if self.chosen_mode not in _MODES:
            raise UsageError(f"WANDB_MODE={self.chosen_mode} is none of {', '.join(_MODES)}: change it, or write tracking.mode=")
        for name, value in (("table_every", self.table_every), ("table_episodes", self.table_episodes)):
            if value is not None and value < 1:
                raise UsageError(f"tracking.{name}={value}: write 1 or more, or tracking.table_every=null for no table")
        for name, seconds in (("init_s", self.init_s), ("finish_s", self.finish_s)):
            if not seconds > 0:
                raise UsageError(f"tracking.{name}={seconds:g}: write seconds, more than 0")


class AlarmAction(StrEnum):
    """What a run does when the collapse alarm begins to ring."""

    warn = "warn"
    stop = "stop"
    rollback = "rollback"


@dataclass
class AlarmConfig:
    """What follows the collapse alarm (`evaluation.alarm`), apart from a line, a W&B alert and `tools/collapse_alarm`."""

    action: AlarmAction = AlarmAction.warn
    """warn: nothing more; stop: RL ends with a checkpoint; rollback: RL goes back to the last checkpoint before the fall, with a
    smaller learning rate."""

    learning_rate_factor: float = 0.25
    """The learning rate of RL is multiplied by this with each rollback."""

    max_rollbacks: int = 1
    """How often RL goes back."""

    after_rollbacks: AlarmAction = AlarmAction.warn
    """What follows the alarm after `max_rollbacks`: warn or stop. With a smaller learning rate use falls more slowly, and was seen
    to come back after it had fallen."""

    def check(self) -> None:
        """Raise UsageError if a value makes no sense."""
        if not 0 < self.learning_rate_factor <= 1:
            raise UsageError(f"alarm.learning_rate_factor={self.learning_rate_factor:g}: write more than 0 and at most 1")
        if self.max_rollbacks < 0:
            raise UsageError(f"alarm.max_rollbacks={self.max_rollbacks}: write 0 or more")
        if self.after_rollbacks is AlarmAction.rollback:
            raise UsageError("alarm.after_rollbacks=rollback: write warn or stop, or a larger alarm.max_rollbacks")
