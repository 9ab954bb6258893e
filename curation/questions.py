"""Questions as rows of verl's parquet, in which `tasks=FILE.parquet` puts them again just as they were put.

`images` are the whole pictures, on which tools work; `image_views` the smaller copies that a policy is shown, if a world has them.
verl shows its policy `images`. A task's scripted expert is no data and stays behind.
"""

from __future__ import annotations

import io
import json
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
from PIL import Image

from envs import questions_of
from envs.datasets.formats import question as read_row
from envs.datasets.types import Question
from envs.errors import ItemError, RowError, UsageError
from envs.protocols import encodable
from envs.runtime.atomic import replaced_file
from envs.scoring import Kind, Scoring
from envs.types import Task
from rollout.episode.environments import make
from rollout.specs import Tasks
from rollout.types import EpisodeSpec

_BATCH_ROWS = 64
_PICTURES = pyarrow.list_(pyarrow.struct([("bytes", pyarrow.binary())]))
_NAMES = pyarrow.list_(pyarrow.string())
SCHEMA = pyarrow.schema(
    [
        ("data_source", pyarrow.string()),
        ("prompt", pyarrow.list_(pyarrow.struct([("role", pyarrow.string()), ("content", pyarrow.string())]))),
        ("images", _PICTURES),
        ("image_views", _PICTURES),
        ("ability", _NAMES),
        ("reward_model", pyarrow.struct([("style", pyarrow.string()), ("ground_truth", pyarrow.string())])),
        ("scoring", pyarrow.string()),
        ("needed_tools", _NAMES),
        ("tools", _NAMES),
        (
            "extra_info",
            pyarrow.struct(
                [
                    ("index", pyarrow.int64()),
                    *((name, pyarrow.string()) for name in ("task_id", "split", "tasks", "options")),
                    ("seed", pyarrow.int64()),
                ]
            ),
        ),
        ("pass_rate_without", pyarrow.float64()),
        ("pass_rate_with", pyarrow.float64()),
        ("num_without", pyarrow.int64()),
        ("num_with", pyarrow.int64()),
        ("tool_use", pyarrow.float64()),
    ]
)
"""The columns of a set. Those from `pass_rate_without` on are what was measured: shares of right answers, how many answers they are
of, and the share of the answers with tools that called one."""

DROPPED = SCHEMA.append(pyarrow.field("drop_reason", pyarrow.string())).append(pyarrow.field("drop_detail", pyarrow.string()))
"""The columns of what was dropped."""


class Questions:
    """The questions of some tasks, by the episodes that ask them; the tasks are those that `resolve` returned.

    Raises UsageError if they cannot be made, or are of an environment whose questions nobody else can put.
    """

    def __init__(self, tasks: Tasks) -> None:
        self._data = questions_of(*tasks)
        self._env = None if self._data is not None else make(*tasks)
        if self._env is not None and not hasattr(self._env.unwrapped, "task"):
            raise UsageError(f"the environment {tasks[0]} does not say what it asks: write one on envs.ToolEnv, which has `task`")

    def of(self, spec: EpisodeSpec) -> tuple[str, Question]:
        """The task's name and its question. Raises ItemError if it cannot be read any more."""
        if self._data is not None:
            number = spec.env_kwargs["number"]
            return f"{self._data.path.stem}-{number}", self._data.question(number)
        assert self._env is not None
        self._env.reset(seed=spec.env_seed)
        task: Task = self._env.unwrapped.task  # ty: ignore[missing-attribute]
        return task.task_id, as_question(task)

    def close(self) -> None:
        """Give back what the environment holds."""
        if self._env is not None:
            self._env.close()


def as_question(task: Task) -> Question:
    """A task as a question of a file, its pictures as PNG, which loses nothing."""
    return Question(
        task.question,
        task.answer,
        task.abilities,
        task.source,
        tuple(map(_png, task.images)),
        needed_tools=task.needed_tools,
        tools=task.tools,
        scoring=task.scoring,
        system=task.system,
        views=tuple(map(_png, task.views)),
    )


def row_of(asked: Question, task_id: str, spec: EpisodeSpec, tasks: str, place: int) -> dict[str, Any]:
    """The row of a question, without what was measured; half an emoji, which UTF-8 has no bytes for, is replaced.

    Raises ItemError if a picture cannot be read any more.
    """
    options = {name: value for name, value in spec.env_kwargs.items() if name not in ("path", "number", "without")}
    text = "<image>" * len(asked.pictures) + asked.text
    system = [{"role": "system", "content": asked.system}] if asked.system else []
    number = spec.env_kwargs.get("number")
    row = {
        "data_source": asked.source or Path(tasks).stem,
        "prompt": [*system, {"role": "user", "content": text}],
        "images": [{"bytes": _bytes(picture)} for picture in asked.pictures],
        "image_views": [{"bytes": _bytes(picture)} for picture in asked.views],
        "ability": list(asked.abilities),
        "reward_model": {"style": "model" if asked.scoring.kind is Kind.JUDGE else "rule", "ground_truth": asked.answer},
        "scoring": _scoring(asked.scoring),
        "needed_tools": None if asked.needed_tools is None else list(asked.needed_tools),
        "tools": None if asked.tools is None else list(asked.tools),
        "extra_info": {
            "index": place if number is None else number,
            "task_id": task_id,
            "split": options.get("split"),
            "tasks": tasks,
            "options": json.dumps(options, default=str),
            "seed": spec.env_seed,
        },
    }
    return _encodable(row)


def _encodable(value: Any) -> Any:
    """The value with texts that can be written."""
    if isinstance(value, dict):
        return {name: _encodable(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_encodable(one) for one in value]
    return encodable(value) if isinstance(value, str) else value


def difference(row: Mapping[str, Any], asked: Question) -> str | None:
    """What would be another if the row were read as a question; None if nothing would.

    Such rows are rare: a question that quotes a placeholder, an answer of 300 characters, half an emoji.
    """
    try:
        again = read_row(row, Path())
    except RowError as error:
        return str(error)
    for column in ("text", "answer", "abilities", "needed_tools", "tools", "scoring", "system"):
        if getattr(again, column) != getattr(asked, column):
            return f"{column} would be read as {str(getattr(again, column))[:60]!r}"
    return None


@contextmanager
def written(path: Path, schema: pyarrow.Schema) -> Generator[Rows]:
    """A parquet file to add rows to, which appears when all are there."""
    with replaced_file(path) as unfinished, pyarrow.parquet.ParquetWriter(unfinished, schema) as writer:
        rows = Rows(writer, schema)
        yield rows
        rows.flush()


class Rows:
    """The rows of a file that is being written; few of them are in memory."""

    def __init__(self, writer: pyarrow.parquet.ParquetWriter, schema: pyarrow.Schema) -> None:
        self._writer, self._schema = writer, schema
        self._waiting: list[Mapping[str, Any]] = []

    def add(self, row: Mapping[str, Any]) -> None:
        """Add a row."""
        self._waiting.append(row)
        if len(self._waiting) == _BATCH_ROWS:
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        if self._waiting:
            self._writer.write_table(pyarrow.Table.from_pylist(self._waiting, schema=self._schema))
            self._waiting = []


def _scoring(scoring: Scoring) -> str:
    """The rule as a mapping in JSON, without what it does not set."""
    values = {name: value for name, value in asdict(scoring).items() if value != _DEFAULTS[name]}
    return json.dumps({"kind": scoring.kind} | values, ensure_ascii=False)


_DEFAULTS = {each.name: each.default for each in fields(Scoring)}


def _png(image: Image.Image) -> bytes:
    encoded = io.BytesIO()
    image.save(encoded, "PNG")
    return encoded.getvalue()


def _bytes(picture: bytes | Path) -> bytes:
    try:
        return picture if isinstance(picture, bytes) else picture.read_bytes()
    except OSError as error:
        raise ItemError(f"{picture}: {error}") from None
