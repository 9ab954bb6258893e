"""Where metrics go: `metrics.jsonl` in the run directory, and Weights & Biases (the only module that imports it)."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import wandb

from envs.runtime.atomic import write_file
from learner.experiment import TrackingConfig


class Tracker:
    """Writes one line and one W&B record per step of a stage, under the same names.

    Without an API key the run is kept offline in `<out>/wandb`, to be sent later with `wandb sync`.
    """

    def __init__(self, out: Path, config: TrackingConfig, settings: dict[str, Any], run_id: str) -> None:
        """`run_id` is W&B's, the same when a run is resumed."""
        self._path = out / "metrics.jsonl"
        mode: Any = config.mode or ("online" if os.environ.get("WANDB_API_KEY") else "offline")
        self._run = wandb.init(
            project=config.project,
            name=out.name,
            dir=out,
            config=settings,
            mode=mode,
            id=run_id,
            resume="allow" if mode == "online" else None,
            # A run that is killed loses what W&B has not written to its file yet: by default that of the last 15 s.
            settings=wandb.Settings(silent=True, console="off", x_transaction_log_flush_interval=0.5),
        )
        self._run.define_metric("global_step")
        self._run.define_metric("*", step_metric="global_step")

    def log(self, stage: str, step: int, global_step: int, metrics: dict[str, float]) -> None:
        """Record the metrics of one step: `step` counts within the stage, `global_step`, W&B's x axis, over all of them."""
        record = {"stage": stage, "step": step, "global_step": global_step, **metrics}
        with self._path.open("a") as file:
            file.write(json.dumps(record) + "\n")
        self._run.log(record)

    def drop_from(self, global_step: int) -> None:
        """Remove the lines of `global_step` and later from `metrics.jsonl`, and a last one that a crash cut short."""
        if not self._path.exists():
            return
        kept = []
        for line in self._path.read_text().splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if record["global_step"] < global_step:
                kept.append(line)
        write_file(self._path, "".join(f"{line}\n" for line in kept))

    def summarise(self, values: dict[str, Any]) -> None:
        """Put the end results into the run's W&B summary."""
        self._run.summary.update(values)

    def finish(self) -> None:
        """Close the W&B run."""
        self._run.finish()
