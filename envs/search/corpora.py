"""Reads what an index is built from, one entry at a time: texts in JSON lines, JSON, TSV, CSV or parquet, pictures in a directory
or parquet.

A text has one of `TEXTS` (a text, or a list of sentences or paragraphs) or `contents` (see `envs.search.text.contents`), and may
have one of `TITLES` and one of `SOURCES`: the names of Wikipedia's dumps, BEIR, MS MARCO, DPR, KILT, Pyserini and FlashRAG. A
picture of a parquet file has `image` (bytes, or a mapping with `bytes`) and `title`; a picture of a directory has its file's name
as title, unless `titles.jsonl` beside it says `{"image": file name, "title": …, "source": …}`.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

import pyarrow
import pyarrow.parquet
from PIL import Image

from envs.errors import UsageError
from envs.search.text.contents import title_and_text
from envs.search.types import Document, Picture

log = logging.getLogger(__name__)

TEXTS = ("text", "passage", "body", "content", "passage_text", "paragraph", "paragraphs", "document", "chunk")
TITLES = ("title", "wikipedia_title", "page_title", "heading")
SOURCES = ("source", "url", "id", "_id", "docid", "doc_id", "pid", "passage_id", "wikipedia_id")
_FORMS = (".jsonl", ".json", ".parquet", ".tsv", ".csv", ".jsonl.gz", ".tsv.gz", ".csv.gz", ".json.gz")
_MOST_BAD_AT_FIRST = 100
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")
_BATCH_ROWS = 256
_MOST_PIXELS = 1 << 26
_MOST_FIELD_CHARACTERS = 1 << 30


def read_corpus(path: Path) -> Iterator[Document]:
    """The documents of a file. Rows that are none are left out, and their number is logged, with the reason of the first.

    Raises UsageError if the file cannot be read, or if none of its rows (or of its first hundred) is a document.
    """
    if path.is_file() and not path.name.endswith(_FORMS):
        raise UsageError(f"{path}: a corpus is a file in one of the forms {', '.join(_FORMS)}")
    found, bad, reason = 0, 0, ""
    for number, row in _rows(path, lenient=True):
        document = row if isinstance(row, str) else _document(row)
        if isinstance(document, Document):
            found += 1
            yield document
            continue
        bad, reason = bad + 1, reason or f"row {number}: {document}"
        if not found and bad == _MOST_BAD_AT_FIRST:
            break
    if not found:
        raise UsageError(f"{path}, {reason}" if bad else f"{path}: there are no rows")
    if bad:
        log.warning("%s: %d of %d rows are no documents and are left out; %s", path, bad, found + bad, reason)


def _document(row: Mapping[str, Any]) -> Document | str:
    """The row's document, or the reason why it is none."""
    name = next((name for name in (*TEXTS, "contents") if _filled(row.get(name))), None)
    title = next((str(row[name]) for name in TITLES if _filled(row.get(name))), "")
    source = next((str(row[name]) for name in SOURCES if _filled(row.get(name))), "")
    if name is None:
        return f'there is no text; write "text" or "contents" (the row has {", ".join(map(str, row)) or "nothing"})'
    value = row[name]
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        value = "\n\n".join(value)
    if not isinstance(value, str):
        return f"{name} is not a text"
    if name == "contents":
        found, value = ("", value) if title else title_and_text(value)
        title = title or found
    return Document(title, value, source)


def _filled(value: Any) -> bool:
    """Whether there is a value: not null, NaN, or blank."""
    return value is not None and value == value and value != [] and (not isinstance(value, str) or bool(value.strip()))


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
    if path.name.endswith((".json", ".json.gz")):
        return sum(1 for _ in _rows(path, lenient=True))
    with _opened(path) as file:
        return sum(1 for _ in file)


def _rows(path: Path, lenient: bool = False) -> Iterator[tuple[int, Any]]:
    """The rows, numbered from 1. One that cannot be read raises UsageError or, if `lenient`, is the reason, a string."""
    if path.is_dir():
        raise UsageError(f"{path} is a directory: write a file, for example {path}/corpus.jsonl")
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
        with _opened(path) as file:
            for number, row in enumerate(_read(file, path), 1):
                if isinstance(row, dict):
                    yield number, row
                elif row is not None:  # a blank line
                    if not lenient:
                        raise UsageError(f"{path}, row {number}: {row}")
                    yield number, row
    except pyarrow.ArrowException as error:
        raise UsageError(f"{path}: the file cannot be read as parquet ({' '.join(str(error).split())})") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: the file is not UTF-8 ({error})") from None
    except (json.JSONDecodeError, csv.Error, EOFError, gzip.BadGzipFile) as error:
        raise UsageError(f"{path}: the file cannot be read ({error})") from None


def _opened(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def _read(file: TextIO, path: Path) -> Iterator[Any]:
    """The rows of an open file: objects; the reason, if one is none; None for a blank line."""
    form = path.name.removesuffix(".gz").rpartition(".")[2]
    if form in ("tsv", "csv"):
        csv.field_size_limit(_MOST_FIELD_CHARACTERS)
        yield from csv.DictReader(file, delimiter="\t" if form == "tsv" else ",")
    elif form == "json":
        rows = json.load(file)
        if not isinstance(rows, list):
            raise UsageError(f"{path}: a .json file is a list of objects; for one object a line, call it .jsonl")
        yield from (row if isinstance(row, dict) else "not an object" for row in rows)
    else:
        for line in file:
            try:
                row = json.loads(line) if line.strip() else None
            except (json.JSONDecodeError, RecursionError) as error:
                row = f"not JSON ({error})"
            yield row if isinstance(row, dict | str) or row is None else "not an object"


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
