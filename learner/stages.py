"""The stages of a run: evaluate the base, cold start, evaluate, RL, evaluate, and the control if one is asked for."""

from __future__ import annotations

from evaluation.types import EvaluationRecord
from learner.cold_start import SupervisedSteps, run_cold_start, run_control
from learner.experiment import Stage
from learner.run_files.report import write_report
from learner.train import run_rl
from learner.training_run import TrainingRun


def run_stages(training: TrainingRun) -> list[EvaluationRecord]:
    """Do every stage of `config.stages` that is not finished yet; returns the records of `evaluation.json`."""
    config, directory = training.config, training.directory
    training.records()  # a damaged file is said now, not after hours
    if "base" not in directory.progress:
        training.evaluate("base", training.policy_dir)
        training.finish("base")
    if Stage.cold_start in config.stages and "cold_start" not in directory.progress:
        checkpoint = run_cold_start(training, SupervisedSteps(training))
        training.publish()
        training.evaluate("cold_start", f"{checkpoint}/policy")
        training.finish("cold_start")
    if Stage.rl in config.stages and directory.progress.get("rl") != config.rl.steps:
        # The control lasts as long as RL did: a longer RL asks for another control.
        directory.forget("control")
        checkpoint, seconds = run_rl(training)
        training.evaluate("rl", f"{checkpoint}/policy")
        training.finish("rl", config.rl.steps, rl_seconds=seconds)
    if Stage.control in config.stages and "control" not in directory.progress:
        checkpoint = run_control(training, SupervisedSteps(training), directory.progress["rl_seconds"])
        training.evaluate("control", f"{checkpoint}/policy")
        training.finish("control")
    records = training.records()
    for record in records:
        figures = {
            "accuracy": record.accuracy,
            "episodes": record.episodes,
            "left_out": record.left_out,
            "unplayed": record.unplayed,
        }
        training.tracker.summarise({f"val/{record.label}/{name}": value for name, value in figures.items()})
    _report(training)
    return records


def _report(training: TrainingRun) -> None:
    """Write `report.html`, and show it in W&B. Nothing that goes wrong with it ends a run that is done."""
    try:
        training.tracker.attach(write_report(training.directory.path))
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        training.say(f"report.html was not written: {type(error).__name__}: {reason}")
