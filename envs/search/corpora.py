"""Reads what an index is built from, one entry at a time: texts in JSON lines or parquet, pictures in a directory or parquet.

A text has `text` (or `contents`, as in Search-R1's corpora, whose first line is the title in quotes), and may have `title` and
`source` (or `url`, `id`). A picture of a parquet or JSON lines file has `image` (in any form of `envs.pictures.named`) and `title`.
A picture of a directory, sub-folders included, has its path without suffix as title, unless `titles.jsonl` in the directory says
`{"image": path, "title": …, "source": …}`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from envs.errors import PictureError, UsageError
from envs.pictures import decode, named
from envs.search.types import Document, Picture

log = logging.getLogger(__name__)

PICTURES = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff", ".avif"),
    *(".jp2", ".j2k", ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".ico", ".qoi"),
)
_BATCH_ROWS = 256
_NAMED = 3  # how many of the files that are left out are named


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
    with path.open("rb") as file:
        return sum(1 for _ in file)


def _rows(path: Path, columns: Sequence[str] | None = None) -> Iterator[tuple[int, Mapping[str, Any]]]:
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
    except (ValueError, OverflowError) as error:  # what Arrow holds and Python cannot, like nanoseconds
        raise UsageError(f"{path}: a column cannot be read ({error}): leave it out, or write it as text") from None


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
