"""The run at Weights & Biases (the only module that imports it), written by a thread of its own: no step ever waits for W&B."""

from __future__ import annotations

import contextlib
import functools
import os
import queue
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import wandb

from learner.experiment import TrackingConfig

_DATA_DIR = os.environ.get("WANDB_DATA_DIR")
_QUEUE = 1024
"""Records that may wait, some minutes of fast steps; further ones are dropped and counted."""

_SUMMARIES = {
    "critic/score/mean": "last,max",
    "tools/calls_per_episode/mean": "first,last,min,max",
    "tools/use": "first,last,min",
    "tools/gain": "first,last,min",
    "tools/collapse_alarm": "max",
    "tools/code/empty": "last,max",
    "tools/code/unused": "last,max",
    "rollout/logprob_gap": "max",
    "timing_s/step": "mean",
}
"""What W&B's table of runs shows of a metric instead of its last value alone."""

Histograms = Mapping[str, Sequence[float]]
Rows = Callable[[], tuple[list[str], list[list[Any]]]]
"""Makes the columns and the rows of a table; a cell that is a PIL image is shown as one. Called by the thread."""


class WandbRun:
    """Takes records from the run and hands them to W&B.

    If a server does not take the run within `tracking.init_s` seconds, the run is kept offline. `notes` collects what a person
    should know; nothing here raises or waits, but for `finish`, which waits `tracking.finish_s` seconds at most.
    """

    def __init__(self, out: Path, config: TrackingConfig, settings: dict[str, Any], run_id: str) -> None:
        """`run_id` is W&B's, the same when a run is resumed."""
        self._out, self._config, self._settings, self._run_id = out, config, settings, run_id
        self._queue: queue.Queue[Callable[[wandb.Run], None] | None] = queue.Queue(_QUEUE)
        self.notes: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.dropped = self.refused = 0
        self._thread = threading.Thread(target=self._work, name="wandb", daemon=True)
        self._thread.start()

    def log(self, record: dict[str, Any], histograms: Histograms, table: tuple[str, Rows] | None = None) -> None:
        """Hand over a step's record, with its histograms by name and a named table."""
        self._hand_over(functools.partial(_log, record, histograms, table, self._note))

    def alert(self, title: str, text: str) -> None:
        """Send an alert, which W&B passes on by mail or Slack as the user has asked it to."""
        self._hand_over(lambda run: run.alert(title, text, level="WARN", wait_duration=0))

    def summarise(self, values: dict[str, Any]) -> None:
        """Put values into the run's summary."""
        self._hand_over(lambda run: run.summary.update(values))

    def attach(self, page: Path) -> None:
        """Show a page of HTML, as it is now, under its name."""
        self._hand_over(
            lambda run: run.log({page.stem: wandb.Html(page.read_text(encoding="utf-8"), inject=False, data_is_not_path=True)})
        )

    def finish(self) -> None:
        """Close the run, waiting for W&B no longer than `tracking.finish_s` seconds."""
        ends = time.monotonic() + self._config.finish_s
        if self._thread.is_alive():
            with contextlib.suppress(queue.Full):  # then the thread is stuck, which the next lines find
                self._queue.put(None, timeout=self._config.finish_s)
        self._thread.join(max(0.0, ends - time.monotonic()))
        if self._thread.is_alive():
            seconds = f"{self._config.finish_s:g} s (tracking.finish_s)"
            self._note(f"W&B did not finish within {seconds}: `wandb sync` sends what it has taken")
        waiting = sum(job is not None for job in list(self._queue.queue))  # nobody takes them any more
        if lost := self.dropped + self.refused + waiting:
            self._note(f"W&B: {lost} records were dropped since it did not take them; metrics.jsonl has all of them")

    def _hand_over(self, job: Callable[[wandb.Run], None]) -> None:
        if not self._thread.is_alive():  # W&B is off, and nobody would empty the queue
            self.dropped += 1
            return
        try:
            self._queue.put_nowait(job)
        except queue.Full:
            self.dropped += 1

    def _note(self, text: str) -> None:
        self.notes.put(text)

    def _work(self) -> None:
        try:
            run = self._open()
            while (job := self._queue.get()) is not None:
                try:
                    job(run)
                except Exception as error:
                    if not self.refused:  # a line for each step would hide all others
                        self._note(f"W&B: a record was not taken: {type(error).__name__}: {_line(error)}; others are counted")
                    self.refused += 1
            run.finish()
        except Exception as error:
            self._note(f"W&B is off: {type(error).__name__}: {_line(error)}; metrics.jsonl goes on")

    def _open(self) -> wandb.Run:
        # The pictures of a table wait here until they are sent; W&B's default is below the home directory.
        os.environ["WANDB_DATA_DIR"] = _DATA_DIR or str(self._out / "wandb")
        mode = self._config.chosen_mode
        try:
            if mode == "online":
                self._knock()
            run = self._init(mode)
        except Exception as error:
            if mode != "online":
                raise
            self._note(f"W&B did not take the run ({_line(error)}): it is kept in {self._out}/wandb, and `wandb sync` sends it")
            wandb.teardown()  # the service still has the run's id
            run = self._init("offline")
        run.define_metric("global_step", hidden=True)
        run.define_metric("step", hidden=True)
        run.define_metric("*", step_metric="global_step")
        for name, summary in _SUMMARIES.items():
            run.define_metric(name, step_metric="global_step", summary=summary)
        return run

    def _knock(self) -> None:
        """Raise OSError if the server does not answer: W&B's own service would go on asking until after the end of the run."""
        url = wandb.setup().settings.base_url
        try:
            urllib.request.urlopen(url, timeout=self._config.init_s).close()
        except urllib.error.HTTPError:
            pass  # an answer
        except (OSError, ValueError) as error:
            raise OSError(f"{url} does not answer: {error}") from error

    def _init(self, mode: Any) -> wandb.Run:
        # What is an argument here outranks W&B's variables, of which it reads all others (WANDB_ENTITY, WANDB_TAGS, …) by itself.
        return wandb.init(
            project=self._config.project or os.environ.get("WANDB_PROJECT") or "toolwise",
            name=os.environ.get("WANDB_NAME") or self._out.name,
            dir=self._out,
            config=self._settings,
            mode=mode,
            id=self._run_id,
            # Else a run of this process that has not ended, its server having hung, is what is returned.
            reinit="create_new",
            resume="allow" if mode == "online" else None,
            settings=wandb.Settings(
                silent=True,
                console="off",
                init_timeout=self._config.init_s,
                finish_timeout=self._config.finish_s,
                # A run that is killed loses what W&B has not written to its file yet: by default that of the last 15 s.
                x_transaction_log_flush_interval=0.5,
            ),
        )


def _log(
    record: dict[str, Any],
    histograms: Histograms,
    table: tuple[str, Rows] | None,
    note: Callable[[str], None],
    run: wandb.Run,
) -> None:
    shown: dict[str, Any] = {
        f"histograms/{name}": wandb.Histogram(np_histogram=np.histogram(values, bins=min(64, max(1, len(set(values))))))
        for name, values in histograms.items()
        if len(values)
    }
    if table is not None:
        name, make = table
        try:
            columns, rows = make()
            cells: Any = [[wandb.Image(cell) if hasattr(cell, "convert") else cell for cell in row] for row in rows]
            shown[name] = wandb.Table(columns=[*columns], data=cells, allow_mixed_types=True)
        except Exception as error:
            note(f"W&B: the table of step {record['step'] + 1} was left out: {type(error).__name__}: {_line(error)}")
    run.log(record | shown)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
