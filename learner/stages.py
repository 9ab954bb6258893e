"""The stages of a run: evaluate the base, cold start, evaluate, RL, evaluate, and the control where one is asked for."""

from __future__ import annotations

from typing import Any

from learner.cold_start import CHECKPOINT as COLD_START_CHECKPOINT
from learner.cold_start import SupervisedSteps, collect_demonstrations, collect_rehearsal, run_cold_start, run_control
from learner.experiment import Experiment, Stage
from learner.run_directory import RunDirectory
from learner.train import CHECKPOINT as RL_CHECKPOINT
from learner.train import run_rl
from learner.workshop import Workshop


def run_stages(config: Experiment, policy_dir: str, directory: RunDirectory) -> list[dict[str, Any]]:
    """Do every stage of `config.stages` that is not finished yet; returns the records of `evaluation.json`. Ray must be running."""
    with Workshop(config, policy_dir, directory) as shop:
        _once(shop, "base", lambda: shop.evaluate("base"))
        steps = None
        if {Stage.cold_start, Stage.control} & set(config.stages):
            steps = SupervisedSteps(shop, collect_demonstrations(shop), collect_rehearsal(shop))
        if Stage.cold_start in config.stages:
            assert steps is not None
            _cold_start(shop, steps)
        if Stage.rl in config.stages:
            _rl(shop)
        if Stage.control in config.stages:
            assert steps is not None
            _control(shop, steps)
        records = shop.records()
        shop.tracker.summarise({f"val/{record['label']}/accuracy": record["accuracy"] for record in records})
    return records


def _cold_start(shop: Workshop, steps: SupervisedSteps) -> None:
    if "cold_start" not in shop.directory.progress:
        run_cold_start(shop, steps)
    elif Stage.rl not in shop.config.stages or shop.directory.newest(RL_CHECKPOINT) is None:
        shop.restore(shop.directory.checkpoints / COLD_START_CHECKPOINT)
    shop.publish()
    _once(shop, "cold_start", lambda: shop.evaluate("cold_start"))


def _rl(shop: Workshop) -> None:
    seconds = run_rl(shop)
    _once(shop, "rl", lambda: shop.evaluate("rl"), rl_seconds=seconds)


def _control(shop: Workshop, steps: SupervisedSteps) -> None:
    def train_and_evaluate() -> None:
        run_control(shop, steps, shop.directory.progress["rl_seconds"])
        shop.evaluate("control")

    _once(shop, "control", train_and_evaluate)


def _once(shop: Workshop, name: str, work: Any, **progress: Any) -> None:
    """Do `work` unless an earlier start of this run has finished it."""
    if name in shop.directory.progress:
        return
    work()
    shop.directory.note(**{name: "finished"}, **progress, global_step=shop.tracker.global_step)
