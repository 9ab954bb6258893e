"""Questions from a file: JSON lines of our own, or verl's RL parquet.

JSON lines: `{"question", "answer", "images": [paths beside the file], "ability", "needed_tools"}`; only the first two are required.
Parquet (verl): `prompt` (a list of chat messages), `reward_model.ground_truth`, `images` (bytes or paths), `ability`,
`data_source`. A malformed row is named by file and number before anything runs.
"""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
from PIL import Image

from envs.microworld.splits import SPLITS
from envs.types import Task, UsageError

SUFFIXES = (".jsonl", ".parquet")
BATCH_ROWS = 256


class DatasetError(UsageError):
    """A file or a row of it cannot be used; the message names both and the remedy in one line."""


class Dataset:
    """A source of tasks drawn uniformly, with replacement, from the rows of a file.

    `split` takes a tenth of the rows for "validation", a tenth for "test", the rest for "train", by checksum of the question; None
    takes all. Raises DatasetError for a missing file, an unknown format, an unknown or empty split, or any malformed row.
    """

    def __init__(self, path: str | Path, split: str | None = None) -> None:
        self.path = Path(path)
        if self.path.suffix not in SUFFIXES:
            raise DatasetError(f"{path}: the format is not known; write a file that ends in {' or '.join(SUFFIXES)}")
        if not self.path.is_file():
            raise DatasetError(f"{path}: there is no such file")
        # Images are opened when a row is drawn; those that a parquet file holds as bytes stay in memory, encoded.
        try:
            self._rows = [_check(row, self.path, number) for number, row in enumerate(_read(self.path), start=1)]
        except (UnicodeDecodeError, pyarrow.ArrowException) as error:
            raise DatasetError(f"{path}: the file cannot be read as {self.path.suffix} ({error})") from None
        if split is not None:
            if split not in SPLITS:
                raise DatasetError(f"split is {split!r}: write one of {', '.join(SPLITS)}")
            self._rows = [row for row in self._rows if _split_of(row["question"]) == split]
        if not self._rows:
            raise DatasetError(f"{path}: the file has no rows" + (f" of the split {split}" if split else ""))

    def __len__(self) -> int:
        return len(self._rows)

    def __call__(self, rng: np.random.Generator) -> Task:
        index = int(rng.integers(len(self._rows)))
        row = self._rows[index]
        return Task(
            task_id=f"{self.path.stem}-{row['number']}",
            question=row["question"],
            answer=row["answer"],
            ability=row["ability"],
            source=row["source"],
            images=tuple(_open(image, self.path, row["number"]) for image in row["images"]),
            needed_tools=row["needed_tools"],
        )


def _read(path: Path) -> Iterator[Mapping[str, Any]]:
    if path.suffix == ".jsonl":
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                try:
                    row = json.loads(line)
                except ValueError as error:
                    raise DatasetError(f"{path}, row {number}: not JSON ({error})") from None
                if not isinstance(row, dict):
                    raise DatasetError(f'{path}, row {number}: write an object with "question" and "answer"')
                yield row
        return
    for batch in pyarrow.parquet.ParquetFile(path).iter_batches(batch_size=BATCH_ROWS):
        for row in batch.to_pylist():
            yield _from_verl(row)


def _from_verl(row: Mapping[str, Any]) -> dict[str, Any]:
    messages = row.get("prompt") or []
    asked = [message.get("content") for message in messages if message.get("role") == "user"]
    return {
        "question": str(asked[-1]).replace("<image>", "").strip() if asked else None,
        "answer": (row.get("reward_model") or {}).get("ground_truth"),
        "images": row.get("images") or [],
        "ability": row.get("ability"),
        "source": row.get("data_source"),
    }


def _check(row: Mapping[str, Any], path: Path, number: int) -> dict[str, Any]:
    where = f"{path}, row {number}"
    for name in ("question", "answer"):
        value = row.get(name)
        if value is None or not str(value).strip():
            raise DatasetError(f"{where}: there is no {name}; every row needs a question and an answer")
    images = row.get("images") or []
    for image in images:
        name = image.get("path") if isinstance(image, Mapping) else image
        has_bytes = isinstance(image, bytes) or (isinstance(image, Mapping) and image.get("bytes"))
        if not has_bytes and not (isinstance(name, str) and (path.parent / name).is_file()):
            raise DatasetError(f"{where}: there is no image {name!r}; write paths relative to the file")
    return {
        "number": number,
        "question": str(row["question"]),
        "answer": str(row["answer"]),
        "images": images,
        "ability": str(row.get("ability") or "other"),
        "source": str(row.get("source") or path.stem),
        "needed_tools": None if row.get("needed_tools") is None else tuple(row["needed_tools"]),
    }


def _split_of(question: str) -> str:
    slot = zlib.crc32(question.encode()) % 10
    return "validation" if slot == 0 else "test" if slot == 1 else "train"


def _open(image: Any, path: Path, number: int) -> Image.Image:
    payload = image.get("bytes") if isinstance(image, Mapping) else image if isinstance(image, bytes) else None
    name = image.get("path") if isinstance(image, Mapping) else image
    try:
        with Image.open(io.BytesIO(payload) if payload else path.parent / name) as opened:
            return opened.convert("RGB")
    except (OSError, Image.DecompressionBombError) as error:
        raise DatasetError(f"{path}, row {number}: the image cannot be opened ({error})") from None
