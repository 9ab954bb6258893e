"""Whether a command goes on with what it began."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from omegaconf import OmegaConf

from envs.errors import UsageError


class Resumable(Protocol):
    """The settings of a command that can go on with what it wrote."""

    out: str
    episodes: int
    resume: bool


def require_same(saved: Path, config: Resumable, decisive: Sequence[str]) -> None:
    """Raise UsageError if the command that wrote `saved` ran other episodes than `config` asks for: if one of the `decisive`
    settings differs, or if there were more."""
    if not config.resume or not saved.exists():
        return
    begun, now = OmegaConf.load(saved), OmegaConf.structured(config)
    for name in decisive:
        before, after = (OmegaConf.select(settings, name) for settings in (begun, now))
        if before != after:
            raise UsageError(
                f"{config.out} was begun with {name}={before}, not {after}: leave the setting out, or write another out="
            )
    if config.episodes < (before := OmegaConf.select(begun, "episodes")):  # the others would be removed
        raise UsageError(f"{config.out} was begun with episodes={before}: write at least as many, or another out=")
