"""The settings of `toolwise evaluate`, which may begin with those of a training run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from configs import compose, compose_again
from evaluation.evaluate import EvaluateConfig
from evaluation.referee.parties import run_policies


def evaluation_settings(overrides: Sequence[str]) -> EvaluateConfig:
    """What `overrides` ask for. If they name a `run`, its tasks and its rollout settings take the place of the defaults.

    Raises UsageError if an override is wrong, or if the run or one of the checkpoints is not there.
    """
    config = compose("evaluate", EvaluateConfig, overrides)
    if not config.run or config.compare:
        return config
    run_policies(config.run, config.checkpoints)  # raises UsageError
    defaults = {"out": config.out, "episodes": config.episodes}
    return compose_again(Path(config.run, "config.yaml"), EvaluateConfig, overrides, defaults)
