"""The page of a run or an evaluation, with the defaults of its settings, and its questions read by its policy's tokenizer."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from envs.errors import UsageError
from evaluation.pages.evaluation_page import saved_settings, write_evaluation_page
from evaluation.pages.run_page import write_run_page
from evaluation.settings import EvaluateConfig
from learner.experiment import Experiment
from learner.run_files.run_directory import settings_of
from rollout.tokens.prompts import Questions
from starter.policies import policies_of


def write_report(directory: Path, out: Path | None = None) -> Path:
    """Write `report.html` of a training run, whatever state it is in, or `evaluation.html` of an evaluation; returns its path.

    Raises UsageError if the directory holds neither.
    """
    if (directory / "metrics.jsonl").exists() or (directory / "progress.json").exists():
        return write_run_page(directory, settings_of(Experiment()), _questions(directory), out)
    if (directory / "evaluation.json").exists():
        return write_evaluation_page(directory, asdict(EvaluateConfig()), _questions(directory), out)
    raise UsageError(f"run={directory}: there is no run and no evaluation: write the directory of toolwise train or evaluate")


def _questions(directory: Path) -> Questions | None:
    """What reads the questions; None if no policy in whose tokens they are is to be found any more."""
    policy = next(policies_of(directory, saved_settings(directory) or {}), None)
    return None if policy is None else Questions(policy)
