"""Judges the collapse alarm on recorded runs: does it ring when tools are lost, how early, and when they are not?

    python -m benchmarks.alarm runs/study_0 runs/weak_cold_start_0 … [--json FILE]

prints a row for each run of RL, and writes the rows as JSON. The alarm is replayed over `metrics.jsonl`, so a changed alarm can be
judged on old runs; a run whose lines lack `tools/use` (version 0.1) is measured again from its trajectories. A run that was rolled
back is judged by what happened before its first rollback.

Tools are *lost* if in the last `END_STEPS` steps of RL they are used on less than half as many of the tasks that need one as in
the first `START_STEPS`; all tasks count if no need is known, and a run that never used them lost them at once. *Fell* is
the first step from which use stays below half of its start. The delay is the step of the ring minus that step: negative is early.
A ring in a run that kept its tools, or was offered none, is a false alarm.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from envs.errors import UsageError
from evaluation.alarm import CollapseAlarm, offers_tools
from evaluation.pages.history import ROLLED_BACK
from evaluation.tool_use import tool_use_metrics
from rollout.store import Store

START_STEPS, END_STEPS = 2, 5
LOST = 0.5
NEVER = 0.02
_USES = ("by_need/needed/tool_use", "tools/use")


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the alarm did in one run. `start` and `end` are shares of episodes with a call; steps count from 1, None: never."""

    run: str
    steps: int
    start: float
    end: float
    lost: bool
    fell: int | None
    rang: int | None
    reason: str | None
    delay: int | None

    @property
    def verdict(self) -> str:
        """In a word or two."""
        if self.lost:
            if self.rang is None:
                return "missed"
            return "late" if self.delay is not None and self.delay > 0 else "in time"
        return "silent" if self.rang is None else "false alarm"


def judge(run: Path) -> Judgement:
    """Replay the alarm over a run of RL. Raises UsageError if the run has none."""
    lines = steps_of(run)
    alarm, rang, reason = CollapseAlarm(), None, None
    for number, line in enumerate(lines, 1):
        if alarm.replay(line) and rang is None:
            rang, reason = number, alarm.reason
    uses = np.array([use_of(line, lines) for line in lines])
    known = uses[~np.isnan(uses)]
    start, end = float(known[:START_STEPS].mean()), float(known[-END_STEPS:].mean())
    lost = any(map(offers_tools, lines)) and (start < NEVER or end < LOST * start)
    fell = _fell(uses, start) if lost else None
    delay = None if rang is None or fell is None else rang - fell
    return Judgement(run.name, len(lines), start, end, lost, fell, rang, reason, delay)


def steps_of(run: Path) -> list[dict[str, Any]]:
    """The metrics of a run's RL steps, as they were before the first rollback. Raises UsageError if there are none."""
    path = run / "metrics.jsonl"
    if not path.exists():
        raise UsageError(f"{run}: there is no metrics.jsonl: write the directory of a run of toolwise train")
    lines = [line for line in _whole_lines(path) if line["stage"] == "rl"]
    undone = run / ROLLED_BACK
    if undone.exists():
        first = [line for line in _whole_lines(undone) if line["rollback"] == 1]
        lines = [line for line in lines if line["step"] < first[0]["step"]] + first
    if not lines:
        raise UsageError(f"{run}: it has no step of RL: nothing to judge")
    if all("tools/use" in line for line in lines):
        return lines
    store = Store(run)
    names = [name for name in store.names() if name.startswith("rl_") and name.count("_") == 1]
    if not names:
        raise UsageError(f"{run}: its metrics are of version 0.1 and its trajectories are gone: it cannot be judged")
    return [tool_use_metrics(store.groups(name, images=False), CollapseAlarm(), ("code",)) for name in names]


def _whole_lines(path: Path) -> list[dict[str, Any]]:
    """The records of a file, without a last line that a kill cut short."""
    text = path.read_text()
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def use_of(line: dict[str, Any], lines: Sequence[dict[str, Any]]) -> float:
    """The share of episodes with a call in a step: on tasks that need a tool, if the run knows; NaN if the step had none."""
    name = next(name for name in _USES if any(name in other for other in lines))
    return line.get(name, float("nan"))


def _fell(uses: np.ndarray, start: float) -> int:
    """The first step, counted from 1, from which on use stays below half of its start; 1 if it was never there."""
    above = np.flatnonzero(uses >= max(LOST * start, NEVER))
    return int(above[-1]) + 2 if len(above) else 1


def table(judged: Sequence[Judgement]) -> str:
    """The judgements as a Markdown table, with a line that counts them."""
    rows = ["| run | steps | used if needed: start → end | lost | fell | rang | delay | verdict |", "|" + " --- |" * 8]
    for one in judged:
        cells = (one.run, one.steps, f"{one.start:.0%} → {one.end:.0%}", "yes" if one.lost else "no", one.fell, one.rang, one.delay)
        rows.append("| " + " | ".join("–" if cell is None else str(cell) for cell in cells) + f" | {one.verdict} |")
    lost, kept = [one for one in judged if one.lost], [one for one in judged if not one.lost]
    in_time = sum(one.verdict == "in time" for one in lost)
    false = sum(one.verdict == "false alarm" for one in kept)
    rows += ["", f"{in_time} of {len(lost)} losses rang in time; {false} of {len(kept)} other runs had a false alarm."]
    rows += [f"{one.run}, step {one.rang}: {one.reason}" for one in judged if one.reason]
    return "\n".join(rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.alarm", description="Judge the collapse alarm on recorded runs.")
    parser.add_argument("runs", nargs="+", type=Path, help="directories of runs of toolwise train")
    parser.add_argument("--json", type=Path, help="a file to write the rows to")
    given = parser.parse_args(arguments)
    try:
        judged = [judge(run) for run in given.runs]
    except UsageError as error:
        print(error, file=sys.stderr)
        return 2
    print(table(judged))
    if given.json:
        given.json.write_text(json.dumps([asdict(one) | {"verdict": one.verdict} for one in judged], indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
