"""Fixes the settings of an evaluation as its benchmark asks, and says what differs: of the settings, and of the file."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from envs import questions_of
from envs.datasets import SUFFIXES, Dataset, is_dataset, unknown_suffix
from envs.errors import UsageError
from evaluation.protocols.benchmark import PREFIX, Benchmark, benchmark, listing, names
from evaluation.settings import EvaluateConfig
from rollout.collect import is_endpoint, tasks_of
from rollout.config import EpisodeConfig

_SEARCHES = ("text_search", "image_search")
_FREE = frozenset((*_SEARCHES, "judge", "path", "protocol", "reward", "search_s", "limits", "render_mode"))
"""Options that a benchmark leaves to the user: where its searches and its judge are, and how the policy writes."""
_DEADLINES = ("turn_s", "episode_s")
_ALL = 1_000_000  # of a file, no more than it has
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Examination:
    """What an evaluation by a benchmark is.

    `name` is what the records call it: `bench:vstar`, or `bench:vstar (changed: temperature)`. `lines` say what is fixed, and which
    file was read; `warnings` what differs from what is published, a line each. `record` is `protocol` in `evaluation.json`.
    """

    name: str
    lines: tuple[str, ...]
    warnings: tuple[str, ...]
    record: Mapping[str, Any]

    def with_changes(self, changes: Mapping[str, Any]) -> Examination:
        """The same if options are also changed, as when the referee takes the tools away: what they are then, by name."""
        if not changes:
            return self
        fixed = self.record["fixed"]
        now = {option: {"is": value, "fixed": fixed.get(f"options.{option}")} for option, value in changes.items()}
        changed = {**self.record["changed"], **now}
        return replace(self, name=_name(self.record["name"], changed), record={**self.record, "changed": changed})


def chosen(config: EvaluateConfig, overrides: Sequence[str], say: Callable[[str], None]) -> EvaluateConfig:
    """`freeze`, and say what is fixed and what differs; for a name that does not exist, which ones do. Raises as `freeze`."""
    if config.tasks.startswith(PREFIX) and config.tasks.removeprefix(PREFIX) not in names():
        for line in listing():
            say(line)
    frozen = freeze(config, overrides)
    if (examined := examine(frozen)) is not None:
        for line in (*examined.lines, *examined.warnings):
            say(line)
    return frozen


def freeze(config: EvaluateConfig, overrides: Sequence[str]) -> EvaluateConfig:
    """The settings with those that `tasks=bench:NAME` fixes, but for what `overrides` (`key=value`) name; others are unchanged.

    An evaluation that is resumed has them already. Raises UsageError if there is no such benchmark, or its file, its judge or what
    its searches search in is not given.
    """
    if not config.tasks.startswith(PREFIX):
        if config.data and not config.bench:
            raise UsageError(f"data={config.data} belongs to a benchmark: write tasks={PREFIX}NAME as well, or tasks={config.data}")
        return config
    bench = benchmark(config.tasks.removeprefix(PREFIX))
    if not config.data:
        raise UsageError(f"tasks={config.tasks} needs your copy of its file: write data=FILE; it is published at {bench.source}")
    if Path(config.data).is_file() and not is_dataset(config.data):
        raise UsageError(f"data={unknown_suffix(config.data)}")
    if not is_dataset(config.data):
        raise UsageError(f"data={config.data}: write a file that ends in {' or '.join(SUFFIXES)}, or a directory of save_to_disk")
    frozen = replace(config, tasks=str(Path(config.data).absolute()), bench=bench.name)
    if config.bench == bench.name:
        return frozen
    frozen.options, frozen.rollout = deepcopy(config.options), deepcopy(config.rollout)
    given = {key.lstrip("+"): text for key, _, text in (override.partition("=") for override in overrides)}
    fixed = bench.settings() | {"episodes": _ALL}
    if bench.max_tokens > frozen.rollout.engine.max_model_len:
        fixed["rollout.engine.max_model_len"] = bench.max_tokens
    for path, value in fixed.items():
        if not _is_given(path, given) and not (path.startswith("options.") and path.partition(".")[2] in config.options):
            _put(frozen, path, value)
    _require_sources(bench, frozen)
    path = Path(frozen.tasks)
    frozen.data_sha256 = _hashes(path, *_state(path))[0] if path.exists() else ""  # `examine` says what is missing
    return frozen


def _is_given(path: str, given: Mapping[str, str]) -> bool:
    """Whether a setting is among those that are given, by itself or within a group, as in rollout.episode={max_turns: 3}."""
    if path in given:
        return True
    *parents, name = path.split(".")
    groups = (given.get(".".join(parents[: end + 1]), "") for end in range(len(parents)))
    return any(re.search(rf"\b{name}\b", text) for text in groups)


def examine(config: EvaluateConfig) -> Examination | None:
    """What is evaluated if it is a benchmark; None if it is not.

    Raises as `tasks_of`, and UsageError if a resumed evaluation was begun with another file.
    """
    if not config.bench:
        return None
    bench = benchmark(config.bench)
    data = questions_of(*tasks_of(config))
    assert data is not None  # `freeze` lets nothing but files through
    path = Path(config.tasks)
    changes = dict(_changes(bench, config, len(data)))
    name = _name(bench.name, changes)
    sha256, md5 = _hashes(path, *_state(path))
    if config.resume and config.data_sha256 not in ("", sha256):
        raise UsageError(
            f"{config.out} was begun with another file: data={path} had sha256 {config.data_sha256} and now has {sha256}; "
            "write another out="
        )
    unasked = len(data) - data.choices if bench.scorer.startswith("choice") else 0
    count = f"{len(data)} items" + (f", without {data.left_out} that the benchmark's form leaves out" if data.left_out else "")
    lacking = _lacking(bench.cluster, data)
    clustered = bench.cluster and not lacking
    warnings = [
        *([f"{path.name} has {count}, and {bench.items} are published"] if len(data) != bench.items else []),
        *([f"{path.name}: {data.skipped} rows that cannot be used are skipped"] if data.skipped else []),
        *([f"{path.name}: {data.blind} items have no picture"] if bench.pictures and data.blind else []),
        *([f"{path.name}: {unasked} items have no options"] if unasked else []),
        *(
            [f"{path.name} has no column {', '.join(lacking)}: the interval takes its rows as independent, and is too narrow"]
            if lacking
            else []
        ),
        *_differing_hash(bench, path, md5, sha256),
        *(
            f"{setting} is {now}, and the benchmark {'has none' if fixed is None else f'fixes {fixed}'}"
            for setting, (now, fixed) in changes.items()
        ),
    ]
    settings = bench.settings()
    shown = {
        setting.rpartition(".")[2]: value
        for setting, value in settings.items()
        if setting not in ("options.form", "options.prompt")
    }
    lines = [
        f"{bench.title}; from {bench.source}; licence: {bench.licence}",
        f"fixed: {', '.join(f'{setting} {_shown(value)}' for setting, value in shown.items())}; judge {bench.judge or 'none'}; "
        f"scorer: {bench.scorer}",
        f"prompt: {bench.prompt!r}" if bench.prompt else f"prompt: {bench.prompt_source}",
        f"data: {path}, {count}, sha256 {sha256}, md5 {md5}",
        *([f"items of the same {' and '.join(bench.cluster)} ask one question: intervals are over these"] if clustered else []),
    ]
    record = {
        "name": bench.name,
        "changed": {setting: {"is": now, "fixed": fixed} for setting, (now, fixed) in changes.items()},
        "fixed": {**settings, "judge": bench.judge, "scorer": bench.scorer, "prompt_source": bench.prompt_source},
        "data": str(path),
        "sha256": sha256,
        "md5": md5,
        "md5_published": dict(bench.md5) or None,
        "items": len(data),
        "items_published": bench.items,
        "left_out_by_form": data.left_out,
        "warnings": list(warnings),
    }
    return Examination(name, tuple(f"{name}: {line}" for line in lines), tuple(f"{name}: {line}" for line in warnings), record)


def question_clusters(config: EvaluateConfig) -> dict[str, str]:
    """By task, a name of the question that it asks, if several rows of the benchmark ask each; {} for any other tasks.

    Raises as `Dataset.clusters`.
    """
    data = questions_of(*tasks_of(config)) if config.bench else None
    columns = benchmark(config.bench).cluster if config.bench else ()
    return {} if data is None or not columns or _lacking(columns, data) else data.clusters(columns)


def _lacking(columns: Sequence[str], data: Dataset) -> list[str]:
    """Those of the columns by which rows are of one question that the file does not have."""
    first = data.record(data.numbers[0])
    return [name for name in columns if name != "images" and name not in first]


def _name(bench: str, changed: Iterable[str]) -> str:
    """What the records call a benchmark of which settings are changed."""
    names = ", ".join(changed)
    return f"{PREFIX}{bench} (changed: {names})" if names else f"{PREFIX}{bench}"


def _changes(bench: Benchmark, config: EvaluateConfig, loaded: int) -> Iterator[tuple[str, tuple[Any, Any]]]:
    """What differs from the benchmark's settings: the name, what it is, and what is fixed."""
    fixed = bench.settings()
    for path, value in fixed.items():
        if (now := _get(config, path)) != value:
            yield path.rpartition(".")[2], (now, value)
    for option, now in config.options.items():
        if option not in _FREE and f"options.{option}" not in fixed:
            yield option, (now, None)
    plain = EpisodeConfig()
    for each in fields(EpisodeConfig):
        now, default = getattr(config.rollout.episode, each.name), getattr(plain, each.name)
        if each.name not in _DEADLINES and f"rollout.episode.{each.name}" not in fixed and now != default:
            yield each.name, (str(now), str(default))
    if config.episodes < loaded:
        yield "episodes", (config.episodes, "all")
    endpoint = config.rollout.endpoint
    if config.rollout.engine.kind == "endpoint" or is_endpoint(config.policy):
        if endpoint.extra:
            yield "endpoint.extra", (dict(endpoint.extra), {})
        if omitted := [name for name in endpoint.omit if name in ("max_tokens", "temperature")]:
            yield "endpoint.omit", (omitted, [])
    judge = _judge(config)
    if bench.judge is not None and judge != bench.judge.lower():
        yield "judge", (judge, bench.judge)


def _judge(config: EvaluateConfig) -> str | None:
    """The judge's model, without the owner before it."""
    settings = config.options.get("judge")
    model = settings.get("model") if isinstance(settings, Mapping) else None
    return None if model is None else str(model).rpartition("/")[2].lower()


def _require_sources(bench: Benchmark, config: EvaluateConfig) -> None:
    """Raise UsageError if the judge, or what a tool searches in, is missing."""
    name = f"{PREFIX}{bench.name}"
    if bench.judge is not None and config.options.get("judge") is None:
        raise UsageError(
            f"{name} is scored by a judge: write +options.judge='{{url: http://localhost:8000/v1, model: {bench.judge}}}'"
        )
    for tool in _SEARCHES:
        if tool in (config.options.get("tools") or ()) and config.options.get(tool) is None:
            raise UsageError(
                f"{name} has the tool {tool}: write +options.{tool}=… (an index, a URL or a recording), "
                f"or +options.tools={_shown([name for name in bench.tools if name not in _SEARCHES])} to change the protocol"
            )


def _differing_hash(bench: Benchmark, path: Path, md5: str, sha256: str) -> list[str]:
    """A line if the file is not one of those whose hash is published."""
    if md5 in bench.md5.values():
        return []
    published = {name: value for name, value in bench.md5.items() if Path(name).suffix == path.suffix}
    if not published:
        return [f"no published hash of such a file is known; yours is sha256 {sha256}"]
    known = ", ".join(f"{value} ({name})" for name, value in published.items())
    return [f"the MD5 of {path.name} is {md5}, and published is {known}"]


def _state(path: Path) -> tuple[int, int]:
    state = path.stat()
    return state.st_size, state.st_mtime_ns


@lru_cache(maxsize=8)
def _hashes(path: Path, _size: int, _mtime_ns: int) -> tuple[str, str]:
    """SHA-256 and MD5 of a file, or of all files of a directory with their names."""
    sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if not file.is_file():
            continue
        if path.is_dir():
            for digest in (sha256, md5):
                digest.update(str(file.relative_to(path)).encode())
        with file.open("rb") as opened:
            while block := opened.read(_BLOCK_BYTES):
                sha256.update(block)
                md5.update(block)
    return sha256.hexdigest(), md5.hexdigest()


def _get(config: Any, path: str) -> Any:
    for name in path.split("."):
        config = config.get(name) if isinstance(config, Mapping) else getattr(config, name)
    return list(config) if isinstance(config, tuple) else config


def _put(config: Any, path: str, value: Any) -> None:
    *parents, name = path.split(".")
    for parent in parents:
        config = getattr(config, parent)
    if isinstance(config, dict):
        config[name] = value
    else:
        setattr(config, name, value)


def _shown(value: Any) -> str:
    return f"[{','.join(map(str, value))}]" if isinstance(value, list) else str(value)
