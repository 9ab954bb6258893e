"""Where metrics go: `metrics.jsonl` in the run directory, and Weights & Biases."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from envs.runtime.atomic import write_file
from evaluation.metric_lines import Line, parsed
from evaluation.pages.history import ROLLED_BACK
from learner.experiment import TrackingConfig
from learner.run_files.episode_table import episode_rows
from learner.run_files.wandb_run import WandbRun
from rollout.summary import EpisodeSummary
from rollout.tokens.prompts import Questions


class _Divided(NamedTuple):
    """The lines of `metrics.jsonl` before a step of all stages, and the records from it on; how many other lines are no records of
    such a step, and whether the last one is `half`-written."""

    before: list[bytes]
    undone: list[Line]
    broken: int
    half: bool


class Tracker:
    """Writes one line and one W&B record per step of a stage, under the same names; every few steps, W&B also gets histograms and a
    table of episodes.

    Without an API key the run is kept offline in `<out>/wandb`, to be sent later with `wandb sync`. A step never waits for W&B.
    """

    def __init__(
        self,
        out: Path,
        config: TrackingConfig,
        settings: dict[str, Any],
        run_id: str,
        *,
        policy_dir: str = "",
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        """`run_id` is W&B's, the same when a run is resumed; `policy_dir` has the tokenizer that reads the questions of a table."""
        self._out, self._config, self._say = out, config, say
        self.path = out / "metrics.jsonl"
        """The file of the lines."""
        self._question = Questions(policy_dir)
        self._wandb = None if config.chosen_mode == "disabled" else WandbRun(out, config, settings, run_id)

    def log(
        self,
        stage: str,
        step: int,
        global_step: int,
        metrics: dict[str, float],
        *,
        episodes: Sequence[EpisodeSummary] = (),
        stored_as: str | None = None,
    ) -> dict[str, Any]:
        """Record the metrics of one step; returns the line of `metrics.jsonl`.

        `step` counts within the stage, `global_step`, W&B's x axis, over all of them.

        `episodes` are those of the step, whose histograms W&B gets every `tracking.table_every` steps together with a table of some
        of them, which are read from `trajectories/<stored_as>` and shown with these rewards.
        """
        record = {"stage": stage, "step": step, "global_step": global_step, **metrics}
        with self.path.open("a") as file:
            file.write(json.dumps(record) + "\n")
        if self._wandb is None:
            return record
        every = self._config.table_every
        due = bool(episodes) and every is not None and step % every == 0
        table = None
        if due and stored_as is not None:
            scores = {episode.episode_id: (episode.reward, episode.reward_parts) for episode in episodes}
            asked = {"most": self._config.table_episodes, "question": self._question, "scores": scores}
            table = "episodes", partial(episode_rows, self._out, stored_as, step, **asked)
        self._wandb.log(record, _distributions(episodes) if due else {}, table)
        self._pass_on()
        return record

    def alert(self, title: str, text: str) -> None:
        """Send an alert through W&B."""
        if self._wandb is not None:
            self._wandb.alert(title, text)

    def drop_from(self, global_step: int) -> None:
        """Remove the lines of `global_step` and later from `metrics.jsonl`, and those that are no records: it says how many they
        are, and whether a crash cut the last one short."""
        if not self.path.exists():
            return
        lines = self._divided(global_step)
        write_file(self.path, b"".join(line + b"\n" for line in lines.before))
        parts = [f"{lines.broken} {'line' if lines.broken == 1 else 'lines'} without a record"] if lines.broken else []
        parts += ["the last line, which is half-written"] if lines.half else []
        if parts:
            self._say(f"{self.path}: dropped {' and '.join(parts)}")

    def set_aside(self, global_step: int, rollback: int) -> None:
        """Copy the lines of `global_step` and later, which a rollback undoes, to `rolled_back.jsonl`, with the rollback's number.

        Those of a number are copied once.
        """
        path, undone = self._out / ROLLED_BACK, self._divided(global_step).undone if self.path.exists() else []
        kept = path.read_text().splitlines() if path.exists() else []
        kept = [line for line in kept if json.loads(line)["rollback"] != rollback]
        added = [json.dumps({"rollback": rollback, **record}) for record in undone]
        write_file(path, "".join(f"{line}\n" for line in [*kept, *added]))

    def _divided(self, global_step: int) -> _Divided:
        before: list[bytes] = []
        undone: list[Line] = []
        broken, (*lines, last) = 0, self.path.read_bytes().split(b"\n")
        for line in [*lines, last] if parsed(last) else lines:
            record = parsed(line)
            step = None if record is None else record.get("global_step")
            if record is None or not isinstance(step, int):
                broken += bool(line.strip())
            elif step < global_step:
                before.append(line)
            else:
                undone.append(record)
        return _Divided(before, undone, broken, half=bool(last.strip()) and parsed(last) is None)

    def summarise(self, values: dict[str, Any]) -> None:
        """Put the end results into the run's W&B summary."""
        if self._wandb is not None:
            self._wandb.summarise(values)

    def attach(self, page: Path) -> None:
        """Show a page of the run in W&B."""
        if self._wandb is not None:
            self._wandb.attach(page)

    def finish(self) -> None:
        """Close the W&B run."""
        if self._wandb is not None:
            self._wandb.finish()
            self._pass_on()

    def _pass_on(self) -> None:
        """Say what the thread has to say: only the run's own thread may draw on the screen."""
        assert self._wandb is not None
        while not self._wandb.notes.empty():
            self._say(self._wandb.notes.get())


def _distributions(episodes: Sequence[EpisodeSummary]) -> dict[str, list[float]]:
    """One number for each episode, or for each call."""
    sound = [episode for episode in episodes if not episode.failed]
    return {
        "reward": [episode.reward for episode in sound],
        "calls_per_episode": [float(episode.tool_calls) for episode in sound],
        "response_length": [float(episode.sampled_tokens) for episode in sound],
        "first_call_turn": [float(episode.first_call) for episode in sound if episode.first_call is not None],
        "tool_latency_s": [call.latency_s for episode in sound for call in episode.calls],
    }
