"""Whether a command goes on with what it began."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from omegaconf import OmegaConf

from envs.errors import UsageError
from envs.runtime.saved_settings import saved_settings


class Resumable(Protocol):
    """The settings of a command that can go on with what it wrote."""

    out: str
    episodes: int
    resume: bool


def require_same(saved: Path, config: Resumable, decisive: Sequence[str]) -> None:
    """Raise UsageError if the command that wrote `saved` ran other episodes than `config` asks for: if one of the `decisive`
    settings differs, if there were more, or if `saved` cannot be read or is gone."""
    if not config.resume:
        return
    if not saved.exists():
        if Path(config.out, "trajectories").exists():
            raise UsageError(f"{saved}, with the settings of the episodes there, is gone: put it back, or write another out=")
        return
    begun, now = saved_settings(saved), OmegaConf.structured(config)
    for name in decisive:
        before, after = (OmegaConf.select(settings, name) for settings in (begun, now))
        if before != after:
            raise UsageError(
                f"{config.out} was begun with {name}={before}, not {after}: leave the setting out, or write another out="
            )
    if config.episodes < (before := OmegaConf.select(begun, "episodes")):  # the others would be removed
        raise UsageError(f"{config.out} was begun with episodes={before}: write at least as many, or another out=")
