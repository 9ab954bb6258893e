"""A benchmark and what its evaluation fixes. Each is one small file of `evaluation/protocols/benchmarks/`; this is their form."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from envs.errors import UsageError

PREFIX = "bench:"
_DIRECTORY = Path(__file__).with_name("benchmarks")


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """What is fixed, and what is known of the published files.

    `items` is the number of questions that are published and asked. `form`, `prompt` and `scoring` are as in
    `envs.datasets.published.Reading`. `tools` are those that are on. `judge` is the model that decides, None if rules do.
    `pictures` says whether each question has one. `cluster` are the columns of the file, and "images" for its pictures, whose
    values several rows that ask the same question share; () if each row asks its own. `md5` are the published hashes by the name
    of the file; a file that is not among them has none that is known. `source`, `licence`, `scorer`, `prompt_source` and `differs`
    (what published evaluations do otherwise) are for the reader. The budgets are in tokens and turns; `max_pixels` is DeepEyes's
    and DeepEyesV2's 16384 · 28².
    """

    name: str
    title: str
    source: str
    licence: str
    items: int
    tools: tuple[str, ...]
    scorer: str
    prompt_source: str
    differs: str
    form: str = ""
    prompt: str = ""
    scoring: str = ""
    judge: str | None = None
    pictures: bool = True
    cluster: tuple[str, ...] = ()
    md5: Mapping[str, str] = field(default_factory=dict)
    max_pixels: int = 16384 * 28 * 28
    temperature: float = 0.0
    samples: int = 1
    max_turns: int = 9
    max_tokens: int = 32_768
    max_action_tokens: int = 4096
    max_observation_tokens: int = 4096

    def settings(self) -> dict[str, Any]:
        """The settings of `toolwise evaluate` that are fixed, by dotted name."""
        read = {"form": self.form, "prompt": self.prompt, "scoring": self.scoring}
        return {
            "temperature": self.temperature,
            "group_size": self.samples,
            "options.tools": list(self.tools),
            "options.max_turns": self.max_turns,
            **{f"options.{name}": value for name, value in read.items() if value},
            "rollout.episode.max_pixels": self.max_pixels,
            "rollout.episode.max_turns": self.max_turns,
            "rollout.episode.max_tokens": self.max_tokens,
            "rollout.episode.max_action_tokens": self.max_action_tokens,
            "rollout.episode.max_observation_tokens": self.max_observation_tokens,
            "rollout.episode.system_prompt": "protocol",
        }


def names() -> list[str]:
    """The names of all benchmarks."""
    return sorted(path.stem for path in _DIRECTORY.glob("*.yaml"))


@cache
def benchmark(name: str) -> Benchmark:
    """The benchmark of a name. Raises UsageError, with the nearest name, if there is none."""
    if not name:
        raise UsageError(
            f"tasks={PREFIX} names no benchmark: write one of {', '.join(names())}, as in tasks={PREFIX}vstar data=FILE"
        )
    if name not in names():
        close = difflib.get_close_matches(name.lower(), names(), 1, 0)
        raise UsageError(f"there is no benchmark {name!r}: did you mean tasks={PREFIX}{close[0]}? They are {', '.join(names())}")
    values = yaml.safe_load((_DIRECTORY / f"{name}.yaml").read_text(encoding="utf-8"))
    return Benchmark(name=name, **values | {"tools": tuple(values["tools"]), "cluster": tuple(values.get("cluster", ()))})


def listing() -> list[str]:
    """A line for each benchmark."""
    return [f"{PREFIX}{name}: {benchmark(name).title} ({benchmark(name).items} items)" for name in names()]
