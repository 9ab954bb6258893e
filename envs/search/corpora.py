"""Reads what an index is built from, one entry at a time: texts in JSON lines or parquet, pictures in a directory or parquet.

A text has `text` (or `contents`, as in Search-R1's corpora, whose first line is the title in quotes), and may have `title` and
`source` (or `url`, `id`). A picture of a parquet file has `image` (bytes, or a mapping with `bytes`) and `title`; a picture of a
directory has its file's name as title, unless `titles.jsonl` beside it says `{"image": file name, "title": …, "source": …}`.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
from PIL import Image

from envs.errors import UsageError
from envs.search.types import Document, Picture

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")
_BATCH_ROWS = 256
_MOST_PIXELS = 1 << 26


def read_corpus(path: Path) -> Iterator[Document]:
    """The documents of a file. Raises UsageError, which names the row, if one is not a document."""
    for number, row in _rows(path):
        text = row.get("text", row.get("contents"))
        if not isinstance(text, str) or not text.strip():
            raise UsageError(f'{path}, row {number}: there is no text; write "text" or "contents"')
        title = row.get("title")
        if title is None and "text" not in row:
            title, _, text = text.partition("\n")
            title = title.strip().strip('"')
        source = next((row[name] for name in ("source", "url", "id") if row.get(name) is not None), "")
        yield Document(str(title or ""), text, str(source))


def read_gallery(path: Path) -> Iterator[Picture]:
    """The pictures of a directory, ordered by name, or of a parquet file. Raises UsageError if one cannot be read."""
    if not path.is_dir():
        for number, row in _rows(path):
            image = row.get("image")
            content = image.get("bytes") if isinstance(image, Mapping) else image
            if not isinstance(content, bytes):
                raise UsageError(f'{path}, row {number}: there is no picture; write its bytes in "image"')
            yield Picture(
                str(row.get("title") or ""), _picture(io.BytesIO(content), f"{path}, row {number}"), str(row.get("source") or "")
            )
        return
    titles = path / "titles.jsonl"
    rows = {str(row.get("image")): row for _, row in _rows(titles)} if titles.is_file() else {}
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in PICTURES)
    if unknown := sorted(set(rows) - {file.name for file in files}):
        raise UsageError(f"{titles} names {unknown[0]}, which does not exist")
    if not files:
        raise UsageError(f"{path} holds no pictures ({', '.join(PICTURES)})")
    for file in files:
        row = rows.get(file.name, {})
        yield Picture(str(row.get("title") or file.stem), _picture(file, str(file)), str(row.get("source") or ""))


def count_rows(path: Path) -> int:
    """The number of documents or pictures of a file or a directory, without reading them. Raises UsageError if there is none."""
    if path.is_dir():
        return sum(file.suffix.lower() in PICTURES for file in path.iterdir())
    if not path.is_file():
        raise UsageError(f"{path}: there is no such file")
    if path.suffix == ".parquet":
        try:
            return pyarrow.parquet.ParquetFile(path).metadata.num_rows
        except pyarrow.ArrowException as error:
            raise UsageError(f"{path}: the file cannot be read as parquet ({' '.join(str(error).split())})") from None
    with path.open("rb") as file:
        return sum(1 for _ in file)


def _rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    if not path.is_file():
        raise UsageError(f"{path}: there is no such file")
    try:
        if path.suffix == ".parquet":
            number = 0
            for batch in pyarrow.parquet.ParquetFile(path).iter_batches(batch_size=_BATCH_ROWS):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
            return
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise UsageError(f"{path}, row {number}: not an object")
                yield number, row
    except pyarrow.ArrowException as error:
        raise UsageError(f"{path}: the file cannot be read as parquet ({' '.join(str(error).split())})") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: the file is not UTF-8 ({error})") from None
    except json.JSONDecodeError as error:
        raise UsageError(f"{path}, row {number}: not JSON ({error})") from None


def _picture(file: Path | io.BytesIO, location: str) -> Image.Image:
    try:
        with Image.open(file) as opened:
            if opened.width * opened.height > _MOST_PIXELS:
                raise UsageError(
                    f"{location}: {opened.width} x {opened.height} pixels are too many; the limit is {_MOST_PIXELS} in all"
                )
            return opened.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"{location}: the picture cannot be opened ({error})") from None
