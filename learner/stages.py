"""The stages of a run: evaluate the base, cold start, evaluate, RL, evaluate, and the control where one is asked for."""

from __future__ import annotations

from concurrent.futures import Future

from evaluation.types import EvaluationRecord
from learner.cold_start import SupervisedSteps, run_cold_start, run_control
from learner.experiment import Experiment, Stage
from learner.run_directory import RunDirectory
from learner.train import run_rl
from learner.workshop import Workshop
from rollout.cluster.fleet import Fleet


def run_stages(config: Experiment, policy_dir: str, directory: RunDirectory, fleet: Future[Fleet] | None) -> list[EvaluationRecord]:
    """Do every stage of `config.stages` that is not finished yet; returns the records of `evaluation.json`. Ray must be running.

    `fleet` is one that starts already, or None.
    """
    with Workshop(config, policy_dir, directory, fleet) as shop:
        if "base" not in directory.progress:
            shop.evaluate("base", policy_dir)
            shop.finish("base")
        if Stage.cold_start in config.stages and "cold_start" not in directory.progress:
            checkpoint = run_cold_start(shop, SupervisedSteps(shop))
            shop.publish()
            shop.evaluate("cold_start", f"{checkpoint}/policy")
            shop.finish("cold_start")
        if Stage.rl in config.stages and directory.progress.get("rl") != config.rl.steps:
            # The control lasts as long as RL did: a longer RL asks for another control.
            directory.forget("control")
            checkpoint, seconds = run_rl(shop)
            shop.evaluate("rl", f"{checkpoint}/policy")
            shop.finish("rl", config.rl.steps, rl_seconds=seconds)
        if Stage.control in config.stages and "control" not in directory.progress:
            checkpoint = run_control(shop, SupervisedSteps(shop), directory.progress["rl_seconds"])
            shop.evaluate("control", f"{checkpoint}/policy")
            shop.finish("control")
        records = shop.records()
        shop.tracker.summarise({f"val/{record.label}/accuracy": record.accuracy for record in records})
    return records
