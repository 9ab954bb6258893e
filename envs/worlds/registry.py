"""What makes the environments behind the ids of `envs.worlds.ids`, and what the setting `tasks=` names."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Condition
from typing import Any

import gymnasium
from cachetools import LRUCache, cached

from envs.datasets import SUFFIXES, Dataset, is_dataset, unknown_suffix
from envs.datasets.columns import Renames, renames
from envs.datasets.dataset import OneRow
from envs.datasets.published import PLAIN, Reading
from envs.errors import UsageError
from envs.tool_env import ToolEnv
from envs.tools.opening import named_tools
from envs.worlds.atlas.world import Atlas
from envs.worlds.ids import DATASET
from envs.worlds.microworld import Microworld, emblems, knowledge_base
from envs.worlds.microworld.basics import Basics

log = logging.getLogger(__name__)

ATLAS_PATH = "runs/atlas"


def make_microworld(
    *,
    abilities: tuple[str, ...],
    split: str = "train",
    need: float = 0.5,
    difficulty: int = 1,
    max_turns: int | None = None,
    **options: Any,
) -> ToolEnv:
    """A `ToolEnv` on the built-in world; `options` are those of `ToolEnv`.

    If an ability needs a search, the environment has the searches; `difficulty` (1 to 3) says how misleading the knowledge base is.
    """
    world = Microworld(abilities, split, need)
    searches = not {"search", "integration", "errands"}.isdisjoint(abilities)
    if searches:
        images: dict[str, Any] = {} if abilities == ("errands",) else {"image_search": emblems()}
        options = {"text_search": knowledge_base(difficulty), **images, "top_k": 3} | options
    return ToolEnv(world, max_turns=max_turns or (6 if searches else 4), **options)


def make_basics(
    *, split: str = "train", kind: str | None = None, world: str = "microworld", max_turns: int = 2, **options: Any
) -> ToolEnv:
    """A `ToolEnv` on the basics of a world (`Basics`); `options` are those of `ToolEnv`."""
    return ToolEnv(Basics(split, kind, world), max_turns=max_turns, **options)


# One thread reads it while others, whose environments start at the same time, wait.
@cached(LRUCache(4), condition=Condition())
def _dataset(
    path: str,
    split: str | None,
    malformed: str,
    tools: frozenset[str] | None,
    columns: Renames,
    reading: Reading = PLAIN,
    checked: bool = False,
) -> Dataset:
    return Dataset(path, split, malformed, tools, columns, checked, reading)


def make_dataset(
    *,
    path: str,
    split: str | None = None,
    malformed: str = "error",
    columns: Mapping[str, str | None] | None = None,
    form: str = "",
    prompt: str = "",
    scoring: str = "",
    row: int | None = None,
    number: int | None = None,
    **options: Any,
) -> ToolEnv:
    """A `ToolEnv` on the questions of a file; `form`, `prompt` and `scoring` are as in `Reading`, the rest as in `Dataset` and
    `ToolEnv`.

    `row` is one of its usable rows, counted from 0. `number` is one by its number in the file, counted from 1, that is known to be
    usable: the rows are not checked again, so that another row that has broken meanwhile is not this episode's trouble.
    """
    tools, names, reading = named_tools(options.get("tools")), renames(columns), Reading(form, prompt, scoring)
    if number is not None:
        known = _dataset(path, _own_split(path, split), malformed, tools, names, reading, checked=True)
        return ToolEnv(OneRow(known.row, number), **options)
    data = _dataset(path, split, malformed, tools, names, reading)
    return ToolEnv(data if row is None else OneRow(data.task, row), **options)


def _own_split(path: str, split: str | None) -> str | None:
    """The split, if it is a part of a directory with files of its own and not some of a file's rows."""
    return split if is_dataset(path) and Path(path, "dataset_dict.json").is_file() else None


def make_atlas(
    *, path: str = ATLAS_PATH, split: str = "train", ability: str | None = None, max_turns: int = 10, **options: Any
) -> ToolEnv:
    """A `ToolEnv` on the world of real data that `toolwise atlas` built at `path`; `options` are those of `ToolEnv`."""
    world = Atlas(path, split, ability)
    searches: dict[str, Any] = {"text_search": str(Path(path, "texts")), "image_search": str(Path(path, "gallery")), "top_k": 5}
    return ToolEnv(world, max_turns=max_turns, **(searches | options))


def questions_of(env_id: str, options: Mapping[str, Any]) -> Dataset | None:
    """The file of questions behind an environment that `resolve` returned; None if its tasks are generated, or it asks one row."""
    if env_id != DATASET or options.get("row") is not None or options.get("number") is not None:
        return None
    path, split, malformed = options["path"], options.get("split"), options.get("malformed", "error")
    reading = Reading(options.get("form", ""), options.get("prompt", ""), options.get("scoring", ""))
    return _dataset(path, split, malformed, named_tools(options.get("tools")), renames(options.get("columns")), reading)


def row_numbers(env_id: str, options: Mapping[str, Any]) -> Sequence[int] | None:
    """The numbers, in its file, of the rows that an environment asks; None if its tasks are generated without end."""
    data = questions_of(env_id, options)
    return None if data is None else data.numbers


def count_rows(env_id: str, options: Mapping[str, Any]) -> int | None:
    """How many rows those are."""
    data = questions_of(env_id, options)
    return None if data is None else len(data)


def resolve(tasks: str, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
    """The environment id and keyword arguments for the setting `tasks=`: an id, or a file of questions.

    Raises DatasetError for a file that cannot be used, UsageError for an id that nobody registered and for a benchmark's name.
    """
    options = dict(options or {})
    if tasks.startswith("bench:"):
        raise UsageError(f"tasks={tasks} is for `toolwise evaluate`, where a benchmark is fixed by name: write its file as tasks=")
    if is_dataset(tasks):
        # A split may have a file of its own. Workers on other nodes have other working directories.
        options["path"] = str(Path(options.get("path", tasks)).absolute())
        data = questions_of(DATASET, options)
        judged = 0 if data is None else data.judged
        if judged and options.get("judge") is None:
            log.warning("%s: %d rows are scored by a judge: write +options.judge='{url: …, model: …}'", tasks, judged)
        return DATASET, options
    if tasks.rpartition(":")[2] not in gymnasium.registry and ":" not in tasks:
        if Path(tasks).is_file():
            raise UsageError(unknown_suffix(tasks))
        built_in = sorted(name for name in gymnasium.registry if name.startswith("toolwise/"))
        close = difflib.get_close_matches(tasks, built_in, 1)
        remedy = f"did you mean {close[0]}?" if close else f"the built-in ones are {', '.join(built_in)}."
        raise UsageError(
            f"there is no environment {tasks!r}: {remedy} One of your own is written module:id, as in my_module:MyEnv-v0, "
            f"and a file of questions ends in {' or '.join(SUFFIXES)}"
        )
    return tasks, options
