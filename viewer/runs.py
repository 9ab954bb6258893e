"""The runs that are shown: where they are, what their settings say, how far they are, what changed."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from envs.errors import UsageError
from envs.runtime.regular_file import open_file
from starter.policies import policies_of
from viewer.episode.tokens import TokenText
from viewer.index.lines import number
from viewer.index.names import FULL
from viewer.index.run_index import RunIndex
from viewer.metrics import Metrics
from viewer.status.reading import State, reported_state

_MARKS = ("trajectories", "metrics.jsonl", "evaluation.json", "progress.json")
_LARGEST_FILE = 64 << 20
_LIVE_S = 900.0
"""A run without status.json that is not finished and wrote nothing for so long is taken for ended."""
_DEPTH = 2


def find_runs(paths: Sequence[str]) -> list[Path]:
    """The run directories at these paths, or below them, at most two levels deep. Raises UsageError if a path has none."""
    found: list[Path] = []
    for text in paths:
        path = Path(text).expanduser()
        remedy = "write a run directory or a directory of runs, as in `view runs/demo` or `view runs`"
        if not path.is_dir():
            raise UsageError(f"there is no directory {text}: {remedy}")
        here = list(_below(path.resolve(), _DEPTH))
        if not here:
            raise UsageError(f"{text} holds no run, which has trajectories/, metrics.jsonl or evaluation.json: {remedy}")
        found += here
    return list(dict.fromkeys(found))


def _below(path: Path, depth: int) -> list[Path]:
    """The runs at a path and so deep below it. A shared disk is asked for listings of directories, not for each of their files."""
    try:
        if not depth:
            return [path] if any((path / mark).exists() for mark in _MARKS) else []
        with os.scandir(path) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except OSError:  # nobody may look into it
        return []
    here = [path] if any(entry.name in _MARKS for entry in found) else []
    inner = [entry for entry in found if entry.name not in _INNER and _is_directory(entry)]
    # A link such as `latest` is the run that it points at, and no second one.
    children = (Path(entry.path).resolve() if entry.is_symlink() else Path(entry.path) for entry in inner)
    return here + [run for child in children for run in _below(child, depth - 1)]


def _is_directory(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


_INNER = {"trajectories", "checkpoints", "wandb", "learned", "tool_outputs", "journal"}


class Run:
    """One run directory. Everything is read again if its file has changed; a file that is missing or broken is left out."""

    def __init__(self, run_id: str, path: Path, cache: Path | None = None) -> None:
        self.id, self.path = run_id, path
        self.metrics = Metrics(path / "metrics.jsonl")
        self._files: dict[str, tuple[Any, Any]] = {}
        self._text: TokenText | None = None
        self._tokenizer = self._find_tokenizer()
        self.index = RunIndex(path, f"tokenizer {self._tokenizer}", self._question, cache)

    @property
    def text(self) -> TokenText | None:
        """What reads the run's tokens; None if the tokenizer of its policy is not to be found."""
        if self._text is None and self._tokenizer is not None:
            try:
                self._text = TokenText(self._tokenizer)
            except (OSError, ValueError):
                self._tokenizer = None
        return self._text

    def _question(self, prompt: list[int]) -> str | None:
        return self.text.question(prompt) if self.text is not None else None

    def describe(self) -> dict[str, Any]:
        """The entry of `/api/runs`."""
        config, progress, records = self.config(), self.json("progress.json"), self.evaluation()
        stages = config.get("stages")
        stages = [stage for stage in stages if isinstance(stage, str)] if isinstance(stages, list) else []
        stage, step = self.metrics.last()
        rl = config.get("rl")
        updated = self.updated()
        state = reported_state(self.path, time.time())
        done = isinstance(progress, dict) and bool(stages) and all(progress.get(stage) for stage in stages)
        finished = state is State.finished or (state is None and done)
        live = state in (State.starting, State.running) or (state is None and not done and time.time() - updated < _LIVE_S)
        first = records[0] if records else {}
        return {
            "id": self.id,
            "path": str(self.path),
            "stages": stages,
            "stage": stage,
            "step": step,
            "steps_planned": number(rl.get("steps")) if isinstance(rl, dict) else None,
            "finished": finished,
            "state": state.value if state is not None else None,
            "live": live,
            "updated": updated,
            "tasks": _text_of(config.get("tasks", first.get("tasks"))),
            "policy": _text_of(config.get("policy", first.get("policy"))),
            "labels": [record["label"] for record in records if isinstance(record.get("label"), str)],
            "tokenizer": str(self._tokenizer) if self._tokenizer else None,
            "indexed": self.index.describe(),
        }

    def config(self) -> dict[str, Any]:
        """`config.yaml`, without its interpolations resolved; empty if there is none."""
        value = self._read("config.yaml", _yaml)
        return value if isinstance(value, dict) else {}

    def reward(self) -> Any:
        """The setting `options.reward`; None without one."""
        options = self.config().get("options")
        return options.get("reward") if isinstance(options, dict) else None

    def json(self, name: str) -> Any:
        """The content of a JSON file of the run; None if it is missing or half-written."""
        return self._read(name, _finite)

    def evaluation(self) -> list[dict[str, Any]]:
        """The records of `evaluation.json`."""
        value = self.json("evaluation.json")
        return [record for record in value if isinstance(record, dict)] if isinstance(value, list) else []

    def updated(self) -> float:
        """When the run last wrote something, in seconds since 1970."""
        names = ("metrics.jsonl", "progress.json", "evaluation.json", "trajectories")
        times = [_mtime(self.path / name) for name in names]
        return max([*times, *(state.mtime / 1e9 for state in self.index.states(0.0))], default=0.0)

    def by_need_of_steps(self) -> dict[int, Mapping[str, Mapping[str, float | None]]]:
        """By step of RL, of those whose episodes are all indexed, the figures by need."""
        draws: dict[int, list[tuple[int, bool]]] = {}
        for name, key, unfinished, indexed in self.index.names():
            if name.step is not None:
                draws.setdefault(name.step, []).append((key, indexed and not unfinished))
        whole = {step: [key for key, _ in of] for step, of in draws.items() if all(read for _, read in of)}
        return {step: self.index.averages(min(keys), max(keys)).by_need for step, keys in whole.items()}

    def lacking(self) -> list[str]:
        """Names of the evaluation's episodes with something taken away, if those with everything are there as well."""
        names = [name for name, _, _, _ in self.index.names() if name.stage == "evaluation"]
        return [name.name for name in names if name.variant] if any(name.name == FULL for name in names) else []

    def version(self) -> dict[str, str]:
        """A mark of each part of the run that changes with it; only `stat` is asked."""
        trajectories = hashlib.sha256()
        try:
            for entry in sorted((self.path / "trajectories").iterdir()):
                if ".jsonl" in entry.name:
                    trajectories.update(f"{entry.name}{_stat(entry)}".encode("utf-8", "replace"))
        except OSError:
            pass
        marks = {
            "metrics": _stat(self.path / "metrics.jsonl"),
            "names": trajectories.hexdigest(),
            "evaluation": "".join(_stat(self.path / name) for name in ("evaluation.json", "ablation.json", "med.json")),
            "index": str(self.index.indexed()),
        }
        return {name: hashlib.sha256(mark.encode()).hexdigest()[:12] for name, mark in marks.items()}

    def _read(self, name: str, parse: Any) -> Any:
        path = self.path / name
        try:
            stat = path.stat()
            mark = stat.st_ino, stat.st_size, stat.st_mtime_ns
            if self._files.get(name, (None,))[0] == mark:
                return self._files[name][1]
            if stat.st_size > _LARGEST_FILE:
                return None
            with open_file(path) as file:
                value = parse(file.read().decode("utf-8", "replace"))
        except (OSError, ValueError, RecursionError):
            return None
        self._files[name] = mark, value
        return value

    def _find_tokenizer(self) -> Path | None:
        """`tokenizer.json` of the policy in whose tokens the run is."""
        found = (Path(policy, "tokenizer.json") for policy in policies_of(self.path, self.config()))
        return next((path for path in found if path.is_file()), None)


def _finite(text: str) -> Any:
    """The value of a JSON text, None in place of numbers that JSON does not have."""
    return json.loads(text, parse_constant=lambda name: None, parse_float=lambda digits: number(float(digits)))


def _yaml(text: str) -> Any:
    import yaml
    from yaml import YAMLError

    try:
        return yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except YAMLError as error:
        raise ValueError(str(error)) from error


def _text_of(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _mtime(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _stat(path: Path) -> str:
    try:
        stat = path.stat()
        return f"{stat.st_ino}:{stat.st_size}:{stat.st_mtime_ns};"
    except OSError:
        return "-;"
