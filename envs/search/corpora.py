"""Reads what an index is built from, one entry at a time: texts in JSON lines, JSON, TSV, CSV or parquet, pictures in a directory
or parquet.

A text has one of `TEXTS` (a text, or a list of sentences or paragraphs) or `contents` (see `envs.search.text.contents`), and may
have one of `TITLES` and one of `SOURCES`: the names of Wikipedia's dumps, BEIR, MS MARCO, DPR, KILT, Pyserini and FlashRAG. A
picture of a parquet or JSON lines file has `image` (in any form of `envs.pictures.named`) and `title`. A picture of a directory,
sub-folders included, has its path without suffix as title, unless `titles.jsonl` in the directory says
`{"image": path, "title": …, "source": …}`.
"""

from __future__ import annotations

import csv
import gzip
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import pyarrow
import pyarrow.parquet

from envs.errors import PictureError, UsageError
from envs.pictures import decode, named
from envs.search.text.contents import title_and_text
from envs.search.types import Document, Picture

log = logging.getLogger(__name__)

TEXTS = ("text", "passage", "body", "content", "passage_text", "paragraph", "paragraphs", "document", "chunk")
TITLES = ("title", "wikipedia_title", "page_title", "heading")
SOURCES = ("source", "url", "id", "_id", "docid", "doc_id", "pid", "passage_id", "wikipedia_id")
_FORMS = (".jsonl", ".json", ".parquet", ".tsv", ".csv", ".jsonl.gz", ".tsv.gz", ".csv.gz", ".json.gz")
_MOST_BAD_AT_FIRST = 100
PICTURES = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff", ".avif"),
    *(".jp2", ".j2k", ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".ico", ".qoi"),
)
_BATCH_ROWS = 256
_NAMED = 3  # how many of the entries that are left out are named
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
    """The pictures of a directory, ordered by path, or of a parquet or JSON lines file.

    Pictures that cannot be opened, and files that are no pictures, are left out with a log message. Raises UsageError if none is
    left, or if the file or the titles cannot be read.
    """
    left_out: list[str] = []
    count = 0
    for name, title, source, value in _listed(path, left_out) if path.is_dir() else _tabulated(path):
        try:
            image = decode(named(value, path if path.is_dir() else path.parent))
        except PictureError as error:
            left_out.append(f"{name} ({error})")
            continue
        count += 1
        yield Picture(title, image, source)
    if not count:
        raise UsageError(f"{path} holds no picture that can be read ({'; '.join(left_out[:_NAMED]) or ', '.join(PICTURES)})")
    if left_out:
        more = f"; and {len(left_out) - _NAMED} more" if len(left_out) > _NAMED else ""
        log.warning("%s: %d entries are left out: %s%s", path, len(left_out), "; ".join(left_out[:_NAMED]), more)


def count_rows(path: Path) -> int:
    """The number of documents or pictures of a file or a directory, without reading them. Raises UsageError if there is none."""
    if path.is_dir():
        return sum(map(_is_picture, path.rglob("*")))
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


def _rows(path: Path, lenient: bool = False, columns: Sequence[str] | None = None) -> Iterator[tuple[int, Any]]:
    """The rows, numbered from 1. One that cannot be read raises UsageError or, if `lenient`, is the reason, a string."""
    if path.is_dir():
        raise UsageError(f"{path} is a directory: write a file, for example {path}/corpus.jsonl")
    if not path.is_file():
        raise UsageError(f"{path}: there is no such file")
    try:
        if path.suffix == ".parquet":
            number = 0
            file = pyarrow.parquet.ParquetFile(path)
            read = [name for name in file.schema_arrow.names if columns is None or name in columns]
            for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=read):
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
    except (ValueError, OverflowError) as error:  # what Arrow holds and Python cannot, like nanoseconds
        raise UsageError(f"{path}: a column cannot be read ({error}): leave it out, or write it as text") from None


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


def _listed(path: Path, left_out: list[str]) -> Iterator[tuple[str, str, str, Path]]:
    """Name, title, source and file of the pictures of a directory; other files are added to `left_out`."""
    titles = path / "titles.jsonl"
    rows = {str(row.get("image")): row for _, row in _rows(titles)} if titles.is_file() else {}
    found = sorted(path.rglob("*"))
    files = [file for file in found if _is_picture(file)]
    known = {name for file in files for name in (file.name, file.relative_to(path).as_posix())}
    if unknown := sorted(set(rows) - known):
        raise UsageError(f"{titles} names {unknown[0]}, which does not exist")
    for file in found:
        is_entry = file.is_symlink() or not file.is_dir()
        if is_entry and not _is_picture(file) and file != titles and file.name != ".DS_Store":
            left_out.append(f"{file.relative_to(path)} (not a picture)")
    for file in files:
        name = file.relative_to(path).as_posix()
        row = rows.get(name) or rows.get(file.name) or {}
        yield name, str(row.get("title") or name.removesuffix(file.suffix)), str(row.get("source") or ""), file


def _is_picture(file: Path) -> bool:
    """Whether a file is a picture by its name. `._a.png` is macOS's note about a.png."""
    return file.suffix.lower() in PICTURES and not file.name.startswith("._") and file.is_file()


def _tabulated(path: Path) -> Iterator[tuple[str, str, str, Any]]:
    for number, row in _rows(path, columns=("image", "title", "source")):
        yield f"row {number}", str(row.get("title") or ""), str(row.get("source") or ""), row.get("image")
