"""The settings of `toolwise evaluate`, which may begin with those of a training run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from omegaconf import OmegaConf

from configs import compose, compose_again
from envs.runtime.saved_settings import saved_settings
from evaluation.referee.parties import run_policies
from evaluation.settings import EvaluateConfig


def evaluation_settings(overrides: Sequence[str]) -> EvaluateConfig:
    """What `overrides` ask for. If they name a `run`, its tasks and its rollout settings take the place of the defaults, and
    `checkpoints` are those that it has now, so that a resumed evaluation goes on with the same ones.

    With other tasks, of the options of the run's only `protocol` is taken over: how the policy writes belongs to it and not to its
    tasks. Raises UsageError if an override is wrong, or if the run or one of the checkpoints is not there.
    """
    config = compose("evaluate", EvaluateConfig, overrides)
    if not config.run or config.compare:
        return config
    policies = run_policies(config.run, config.checkpoints)  # raises UsageError
    of_run = {"out": config.out, "episodes": config.episodes, "checkpoints": [*policies]}
    saved = Path(config.run, "config.yaml")
    if any(override.partition("=")[0] == "tasks" for override in overrides):
        protocol = OmegaConf.select(saved_settings(saved), "options.protocol")
        of_run["options"] = {} if protocol is None else {"protocol": protocol}
    return compose_again(saved, EvaluateConfig, overrides, of_run)
