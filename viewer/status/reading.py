"""What a run directory says of where its run stands."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, TypeGuard

import yaml

from envs.errors import UsageError
from envs.runtime.processes import pid_space, process_began
from envs.runtime.regular_file import open_file
from evaluation.metric_lines import End, by_stage, read_end
from viewer.status.figures import clock, elapsed, printable
from viewer.status.page import ROWS

SILENT_S = 60.0
"""A run that has written nothing for so long is taken for dead if its process cannot be looked for."""

TAIL_BYTES = 4 << 20
"""Of a longer `metrics.jsonl` the end alone is read."""

_LATEST = 1e11
"""Unix seconds that a date can be made of."""
_RUNS = "the directory that a command wrote (its out=), as in run=runs/demo"


class State(Enum):
    """How a run fares."""

    starting = "starting"
    running = "running"
    finished = "finished"
    failed = "failed"
    interrupted = "interrupted"
    dead = "dead"
    silent = "silent"
    unfinished = "unfinished"
    unknown = "unknown"

    @property
    def is_well(self) -> bool:
        """Whether nobody need do anything about it."""
        return self in (State.starting, State.running, State.finished, State.unknown)


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a run stands: its `state` and why in one line, what `status.json` has (or what other files tell of it), the records of
    `evaluation.json`, what of that file is not read and why, None if it is whole or not there, and the command that comes next."""

    run: str
    state: State
    why: str
    status: dict[str, Any] = field(default_factory=dict)
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    unread: str | None = None
    following: str = ""

    def metrics(self) -> End:
        """The end of `metrics.jsonl`, read now: all of it, unless it is long."""
        return _metrics(Path(self.run))

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        metrics = self.metrics()
        return {
            "run": self.run,
            "state": self.state.value,
            "why": self.why,
            "next": self.following,
            "evaluations": self.evaluations,
            "evaluations_unread": self.unread,
            "metrics_lines": {"unreadable": metrics.broken, "half": metrics.half, "whole": metrics.whole},
            "status": self.status,
        }


def read_standing(run: str, now: float) -> Standing:
    """Where the run in a directory stands at a moment in Unix seconds. Raises UsageError if there is no run."""
    directory = Path(run)
    if not run:
        raise UsageError(f"run= is missing: write {_RUNS}")
    if not directory.is_dir():
        raise UsageError(f"run={run}: there is no such directory: write {_RUNS}")
    status, (evaluations, unread) = _status_file(directory), _evaluations(directory)
    config = _settings(directory)
    if status is not None:
        state, why = _reported(status, now)
        if state is State.finished:  # its RL, not the stage that came last
            status |= _known_otherwise(directory)
    elif "rl" in config:
        status = _known_otherwise(directory)
        state, why = _unreported(directory, config, now)
    elif evaluations or unread or (directory / "trajectories").is_dir():
        state, why = _of_another_command(directory, evaluations, now)
    else:
        raise UsageError(f"run={run}: there is no run in it: write {_RUNS}")
    return Standing(run, state, why, status or {}, evaluations, unread, _following(run, state, trained="rl" in config))


def reported_state(directory: Path, now: float) -> State | None:
    """The state that the status.json of a run tells, at a moment in Unix seconds; None without one. It reads that file alone."""
    status = _status_file(directory)
    return None if status is None else _reported(status, now)[0]


def _reported(status: Mapping[str, Any], now: float) -> tuple[State, str]:
    state = State(status["state"])
    process, age = f"process {status['pid']} on {printable(status['host'])}", elapsed(now - status["written"])
    if state is State.failed:
        return state, f"{clock(status['written'])}: {printable(status['line'])}"
    if state not in (State.starting, State.running):
        return state, f"{clock(status['written'])}, after {elapsed(status['written'] - status['began'])}"
    here = status["pid_space"] == pid_space()
    if here and status["pid_began"] is not None and process_began(status["pid"]) != status["pid_began"]:
        return State.dead, f"{process} is no more; it last reported {age} ago"
    if now - status["written"] > SILENT_S:
        return State.silent, f"{process} has not reported for {age}"
    news = now - status["advanced"]
    waits = f"; nothing new for {elapsed(news)}" if news > SILENT_S else ""
    return state, f"{process}, for {elapsed(now - status['began'])}; it last reported {age} ago{waits}"


def _unreported(directory: Path, config: Mapping[str, Any], now: float) -> tuple[State, str]:
    """The state of a run of which there is no status.json."""
    done, stages = _json(directory / "progress.json"), config.get("stages") or ["rl"]
    done = done if isinstance(done, dict) else {}
    if isinstance(stages, list) and all(done.get(str(stage)) for stage in stages):
        return State.finished, "progress.json has all stages; there is no status.json"
    age = now - _newest(directory)
    if age < SILENT_S:
        return State.running, f"there is no status.json; the newest file was written {elapsed(age)} ago"
    finished = ", ".join(name for name in ("base", "cold_start", "rl", "control") if done.get(name)) or "none"
    return State.unfinished, f"there is no status.json; stages done: {finished}; nothing was written for {elapsed(age)}"


def _of_another_command(directory: Path, evaluations: list[dict[str, Any]], now: float) -> tuple[State, str]:
    """Of `collect`, `evaluate`, `curate` and `synthesize` the files tell what there is, not whether the command still runs."""
    files = sorted((directory / "trajectories").glob("*.jsonl*"))
    parts = [f"{len(files)} trajectory files"] if files else []
    parts += [f"{len(evaluations)} evaluation records"] if evaluations else []
    age = elapsed(now - _newest(directory))
    state = State.finished if evaluations else State.unknown
    there = " and ".join(parts) or "nothing recorded yet"
    return state, f"{there}, the newest file written {age} ago; only `train` tells more, in status.json"


def _known_otherwise(directory: Path) -> dict[str, Any]:
    """What `metrics.jsonl` tells of RL, or else of the last stage, in the form of a status.json; of a long file the end."""
    records = [record for record in _metrics(directory).records if _is_number(record.get("global_step"))]
    if not records:
        return {}
    stages = by_stage(records)
    same = stages.get("rl") or stages[records[-1]["stage"]]
    last = same[-1]
    curves = {row.metric: [record[row.metric] for record in same if _is_number(record.get(row.metric))] for row in ROWS}
    shown = {name for row in ROWS for name in (row.metric, row.beside) if name}
    numbers = {name: value for name, value in last.items() if _is_number(value)}
    config = _settings(directory)
    of = {"rl": ("rl", "steps"), "cold_start": ("cold_start", "max_steps")}.get(last["stage"])
    total = _setting(config, *of) if of else None
    return {
        "stage": {"name": last["stage"], "step": last["step"] + 1, "of": total} if _is_number(total) and total > 0 else None,
        "policy_version": records[-1]["global_step"] + 1,
        "metrics": {name: value for name, value in numbers.items() if name in shown},
        "curves": {name: values for name, values in curves.items() if values},
        "earlier": {name: values[-1] for name, values in curves.items() if values and name not in numbers},
        "timing_s": {name.removeprefix("timing_s/"): value for name, value in numbers.items() if name.startswith("timing_s/")},
    }


def _metrics(directory: Path) -> End:
    return read_end(directory / "metrics.jsonl", TAIL_BYTES)


def _following(run: str, state: State, trained: bool) -> str:
    out = shlex.quote(run)
    if trained and not state.is_well:
        return f"train out={out} resume=true"
    return f"view {out}"


def _status_file(directory: Path) -> dict[str, Any] | None:
    """The content of status.json; None if there is none, or none that can be read."""
    status = _json(directory / "status.json")
    needed = {"state", "line", "host", "pid", "pid_began", "pid_space", "began", "written", "advanced"}
    if not isinstance(status, dict) or not needed <= status.keys() or str(status["state"]) not in State:
        return None
    numbers = (status[name] for name in ("pid", "began", "written", "advanced"))
    return status if all(_is_number(number) and abs(number) < _LATEST for number in numbers) else None


def _evaluations(directory: Path) -> tuple[list[dict[str, Any]], str | None]:
    """The records of evaluation.json, and what of it is not read; none and None if there is no such file."""
    try:
        with open_file(directory / "evaluation.json") as file:
            entries = json.loads(file.read())
    except FileNotFoundError:
        return [], None
    except (OSError, ValueError, RecursionError) as error:
        why = "" if isinstance(error, OSError) else "it is half-written, or no JSON: "
        return [], f"evaluation.json cannot be read: {why}{printable(error)}"
    if not isinstance(entries, list):
        return [], "evaluation.json cannot be read: it is no list of records"
    names = ("label", "accuracy", "ci95", "episodes", "left_out")
    records = [{name: entry.get(name) for name in names} for entry in entries if isinstance(entry, dict)]
    others = len(entries) - len(records)
    return records, f"evaluation.json: {others} of its {len(entries)} entries are no records" if others else None


def _settings(directory: Path) -> dict[str, Any]:
    try:
        with open_file(directory / "config.yaml") as file:
            settings = yaml.load(file.read(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return {}
    return settings if isinstance(settings, dict) else {}


def _setting(settings: Mapping[str, Any], group: str, name: str) -> Any:
    """A setting of a group; None if there is no such group."""
    found = settings.get(group)
    return found.get(name) if isinstance(found, Mapping) else None


def _json(path: Path) -> Any:
    try:
        with open_file(path) as file:
            return json.loads(file.read())
    except (OSError, ValueError, RecursionError):
        return None


def _is_number(value: object) -> TypeGuard[float]:
    """Whether a value is a number of a size that arithmetic takes."""
    return isinstance(value, int | float) and abs(value) < 1e300


def _newest(directory: Path) -> float:
    """When a file of the run was written last, in Unix seconds."""
    places = [*directory.glob("*.json*"), directory / "trajectories", *(directory / "trajectories").glob("*.part")]
    times = []
    for place in places:
        with suppress(OSError):  # a shard gets another name when it is finished
            times.append(place.stat().st_mtime)
    return max(times, default=directory.stat().st_mtime)
