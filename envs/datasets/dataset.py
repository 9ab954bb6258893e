"""A file of questions as a source of tasks. All rows are checked before anything runs; a row is read again when it is drawn."""

from __future__ import annotations

import ast
import zlib
from array import array
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from envs.datasets.formats import question
from envs.datasets.pictures import from_base64, load
from envs.datasets.rows import open_rows
from envs.datasets.types import Question, report_malformed
from envs.errors import DatasetError, RowError
from envs.types import SPLITS, Task

SUFFIXES = (".jsonl", ".json", ".parquet", ".tsv")
_LONGEST_INDEX = 64  # characters: an image in base64 has more


def is_dataset(tasks: str) -> bool:
    """Whether `tasks` names a file of questions, which need not exist, or an existing directory, rather than an environment."""
    return tasks.endswith(SUFFIXES) or Path(tasks).is_dir()


class Dataset:
    """A source of tasks drawn uniformly, with replacement, from the rows of a file.

    `split` takes a tenth of the rows for "validation", a tenth for "test", the rest for "train", by checksum of the question; None
    takes all. If a directory has splits, `split` names one of them. `malformed` says whether rows that cannot be used are an error
    or are skipped with a log message; `skipped` counts them. `tools` are the names of tools that rows may use, None for any. Raises
    DatasetError if the file is missing, its format or `split` is unknown, rows are malformed, or no row can be used.
    """

    def __init__(
        self, path: str | Path, split: str | None = None, malformed: str = "error", tools: frozenset[str] | None = None
    ) -> None:
        self.path = Path(path)
        if not self.path.is_dir() and self.path.suffix not in SUFFIXES:
            raise DatasetError(f"{path}: the format is not known; write a file that ends in {' or '.join(SUFFIXES)}")
        if not self.path.exists():
            raise DatasetError(f"{path}: there is no such file")
        self._folder = self.path if self.path.is_dir() else self.path.parent
        self._rows = open_rows(self.path, split)
        own_splits = (self.path / "dataset_dict.json").is_file()
        if split is not None and split not in SPLITS and not own_splits:
            raise DatasetError(f"split is {split!r}: write one of {', '.join(SPLITS)}")
        self._tools = tools
        self._by_index: dict[str, int] = {}
        self._numbers, bad = self._check(None if own_splits else split)
        self.skipped = len(bad)
        report_malformed(self.path, bad, malformed)
        if not self._numbers:
            raise DatasetError(f"{path}: the file has no rows" + (f" of the split {split}" if split else ""))

    def __len__(self) -> int:
        return len(self._numbers)

    def __call__(self, rng: np.random.Generator) -> Task:
        return self.task(int(rng.integers(len(self))))

    def task(self, index: int) -> Task:
        """The task of the row at `index`, counted from 0 over the usable rows of the split."""
        number = self._numbers[index]
        try:
            parsed = self._question(self._rows[number])
            images = tuple(load(picture) for picture in parsed.pictures)
        except RowError as error:
            raise DatasetError(f"{self.path}, row {number}: {error}") from None
        return Task(
            task_id=f"{self.path.stem}-{number}",
            question=parsed.text,
            answer=parsed.answer,
            abilities=parsed.abilities,
            source=parsed.source or self.path.stem,
            images=images,
            needed_tools=parsed.needed_tools,
            tools=parsed.tools,
            scoring=parsed.scoring,
        )

    def _check(self, split: str | None) -> tuple[array[int], list[tuple[int, str]]]:
        """The numbers of the split's rows, and the rows of the file that cannot be used, each with the reason."""
        numbers, bad = array("q"), []
        for number, row in self._rows:
            try:
                if isinstance(row, RowError):
                    raise row
                if "index" in row:
                    self._by_index.setdefault(str(row["index"]), number)
                parsed = self._question(row)
            except RowError as error:
                bad.append((number, str(error)))
                continue
            if split is None or _split_of(parsed.text) == split:
                numbers.append(number)
        return numbers, bad

    def _question(self, row: Mapping[str, Any]) -> Question:
        if self.path.suffix == ".tsv" and row.get("image"):
            row = dict(row) | {"image": [self._tsv_image(text) for text in _listed(row["image"])]}
        return question(row, self._folder, self._tools)

    def _tsv_image(self, text: str) -> bytes:
        """An image in VLMEvalKit's form: base64, or the index of the row that has it."""
        if len(text) > _LONGEST_INDEX:
            return from_base64(text)
        number = self._by_index.get(text)
        other = self._rows[number].get("image", "") if number is not None else ""
        if len(other) <= _LONGEST_INDEX:
            raise RowError(f"there is no image {text!r}; write base64, or the index of an earlier row that has it")
        return from_base64(other)


def _listed(text: str) -> list[str]:
    """The images of a TSV field: the text itself, or the items of a list of strings in Python's notation."""
    if not text.startswith("["):
        return [text]
    try:
        return [str(item) for item in ast.literal_eval(text)]
    except (ValueError, SyntaxError) as error:
        raise RowError(f"the images are not a list of strings ({error})") from None


def _split_of(text: str) -> str:
    slot = zlib.crc32(text.encode()) % 10
    return "validation" if slot == 0 else "test" if slot == 1 else "train"
