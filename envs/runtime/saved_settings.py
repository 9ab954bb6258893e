"""The settings that a command has written beside what else it wrote."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from envs.errors import UsageError


def saved_settings(path: Path) -> DictConfig:
    """The settings that a command has written as its `config.yaml`. Raises UsageError if they cannot be read."""
    try:
        settings = OmegaConf.load(path)
        if not isinstance(settings, DictConfig) or not settings:
            raise ValueError("it holds no settings")
    except (OSError, ValueError, YAMLError, OmegaConfBaseException) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"{path} cannot be read ({reason}): put back what was written there, or name another directory") from error
    return settings
