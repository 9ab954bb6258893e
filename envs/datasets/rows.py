"""Rows of a file by number, read on demand: memory does not grow with the file.

JSON lines, a JSON list and TSV are read in place, by the offset of each row. Parquet is copied to Arrow, below
`~/.cache/toolwise/datasets` (or `$XDG_CACHE_HOME`), since a single row of parquet cannot be read; the copy is memory-mapped, not
loaded. A directory is one that `datasets.Dataset.save_to_disk` has written.
"""

from __future__ import annotations

import csv
import hashlib
import json
import mmap
import os
import re
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import pyarrow
import pyarrow.parquet

from envs.errors import DatasetError, RowError
from envs.protocols.text import encodable
from envs.runtime.atomic import replaced_file

Row = Mapping[str, Any]
_BATCH_ROWS = 64
_MOST_FIELD_BYTES = 1 << 30
_HEAD_BYTES = 4096
_MAYBE_SURROGATE = re.compile(rb"\\ud[89a-f]|\xed", re.IGNORECASE)
_PACKED = {
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "zip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"7z\xbc\xaf": "7z",
}
"""The names of packed forms by the bytes with which they begin."""
_SEPARATORS = {".tsv": "\t", ".csv": ","}
_NAMES = {"\t": "tabs", ",": "commas", ";": "semicolons"}
_REMEDIES = {"\t": "name it .tsv", ";": "write commas", ",": "name it .csv"}
_JSON_MARKS = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[{}\[\]]', re.DOTALL)


class Rows(Protocol):
    """Iteration reads all rows once, in order, as (number from 1, row or RowError). Then each row can be read by its number."""

    def __iter__(self) -> Iterator[tuple[int, Row | RowError]]: ...

    def __getitem__(self, number: int) -> Row: ...


def open_rows(path: Path, split: str | None, *, as_written: bool = False) -> Rows:
    """The rows of a file or directory. `split` names one of a directory's splits. Raises DatasetError if it cannot be read.

    Half a character in JSON (an emoji within which a text was cut) is read as U+FFFD, unless all is wanted `as_written`.
    """
    if path.is_dir():
        return _ArrowRows(_saved(path, split))
    try:
        _require_content(path)
        if path.suffix == ".parquet":
            table = _mapped([_as_arrow(path)])
            _require_different(path, table.column_names)
            return _ArrowRows(table)
        if path.suffix in _SEPARATORS:
            return _SpanRows(path, _records, _table_parser(path))
        return _SpanRows(path, _elements if path.suffix == ".json" else _lines, _parse_json if as_written else _encodable_row)
    except (OSError, pyarrow.ArrowException) as error:
        reason = f"the file cannot be read as {path.suffix[1:]} ({' '.join(str(error).split())})"
        raise DatasetError(f"{path}: {reason}; if it is not whole, download it again") from None


def _require_content(path: Path) -> None:
    """Raises DatasetError if a file's first bytes show that it holds something other than its suffix says."""
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    packed = next((name for magic, name in _PACKED.items() if head.startswith(magic)), None)
    header = head.partition(b"\n")[0]
    found = ""
    if head.startswith(b"version https://git-lfs.github.com/spec/"):
        found = "it is Git LFS's pointer to the file: fetch the file itself, with git lfs pull or by downloading it again"
    elif text[:14].lower().startswith((b"<!doctype html", b"<html", b"<?xml")):
        found = "it is a web page, an error or a login most likely: download the file itself"
    elif packed is not None:
        found = f"it is packed ({packed}): unpack it, and name the file that was in it"
    elif head.startswith(b"PAR1") and path.suffix != ".parquet":
        found = "it is parquet: give it the suffix .parquet"
    elif head.startswith((b"\xff\xfe", b"\xfe\xff")):
        found = "it is text in UTF-16: save it as UTF-8"
    elif path.suffix == ".parquet" and text[:1] in (b"{", b"["):
        found = f"it is JSON: give it the suffix {'.jsonl' if text[:1] == b'{' else '.json'}"
    elif path.suffix in _SEPARATORS and _SEPARATORS[path.suffix].encode() not in header:
        other = next((mark for mark in _REMEDIES if mark.encode() in header), None)
        if other is not None:
            found = f"its columns are separated by {_NAMES[other]}: {_REMEDIES[other]}"
    if found:
        raise DatasetError(f"{path}: {found}")


def _require_different(path: Path, names: Sequence[str]) -> None:
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise DatasetError(f"{path}: there are two columns {twice[0]}: rename or remove one")


class _SpanRows:
    """Rows that are each a span of bytes: `spans` finds them, `parse` reads one and raises RowError."""

    def __init__(self, path: Path, spans: Callable[[Path], Iterator[tuple[int, int]]], parse: Callable[[bytes], Row]) -> None:
        self._path, self._spans, self._parse = path, spans, parse
        self._starts, self._ends = array("q"), array("q")

    def __iter__(self) -> Iterator[tuple[int, Row | RowError]]:
        self._starts, self._ends = array("q"), array("q")
        for number, (start, end) in enumerate(self._spans(self._path), 1):
            self._starts.append(start)
            self._ends.append(end)
            try:
                yield number, self[number]
            except RowError as error:
                yield number, error

    def __getitem__(self, number: int) -> Row:
        start, end = self._starts[number - 1], self._ends[number - 1]
        with self._path.open("rb") as file:
            file.seek(start)
            return self._parse(file.read(end - start))


class _ArrowRows:
    def __init__(self, table: pyarrow.Table) -> None:
        self._table = table

    def __iter__(self) -> Iterator[tuple[int, Row | RowError]]:
        for number in range(1, len(self._table) + 1):
            try:
                yield number, self[number]
            except RowError as error:
                yield number, error

    def __getitem__(self, number: int) -> Row:
        row = self._table.slice(number - 1, 1)
        try:
            return row.to_pylist()[0]
        except (ValueError, OverflowError, ArithmeticError, pyarrow.ArrowException):
            return {name: _as_python(name, row.column(place)) for place, name in enumerate(row.column_names)}


def _as_python(name: str, column: pyarrow.ChunkedArray) -> Any:
    """The one value of a column; what Python has no type for, like nanoseconds, as text."""
    try:
        return column.to_pylist()[0]
    except (ValueError, OverflowError, ArithmeticError, pyarrow.ArrowException) as error:
        try:
            return column.cast(pyarrow.string()).to_pylist()[0]
        except (ValueError, pyarrow.ArrowException):
            reason = " ".join(str(error).split())
            raise RowError(f"the column {name} cannot be read ({reason}): write it as text in UTF-8, or leave it out") from None


def _parse_json(text: bytes) -> Row:
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        hint = ": save the file as UTF-8" if isinstance(error, UnicodeDecodeError) else ""
        raise RowError(f"not JSON ({error}){hint}") from None
    if not isinstance(row, dict):
        raise RowError('write an object with "question" and "answer"')
    return row


def _encodable_row(text: bytes) -> Row:
    row = _parse_json(text)
    return json.loads(encodable(json.dumps(row, ensure_ascii=False))) if _MAYBE_SURROGATE.search(text) else row


def _lines(path: Path) -> Iterator[tuple[int, int]]:
    """The lines of a file, numbered as in an editor; empty lines at the end are not rows."""
    start, size = 0, path.stat().st_size
    with path.open("rb") as file:
        while start < size:
            line = file.readline()
            end = start + len(line)
            if line.strip() or end < size:
                yield start, end
            start = end


def _records(path: Path) -> Iterator[tuple[int, int]]:
    """The records as `csv` splits them, after the header: a quote opens a field only at its beginning and may hold line breaks."""
    end = 0

    def lines() -> Iterator[str]:
        nonlocal end
        for line in file:
            end += len(line)
            yield line.decode("utf-8", "replace")

    with path.open("rb") as file:
        records = csv.reader(lines(), delimiter=_SEPARATORS[path.suffix])
        next(records, None)
        while True:
            start = end
            try:
                empty = not next(records)
            except StopIteration:
                return
            except csv.Error:  # parsing the record raises it again
                empty = False
            if not empty:
                yield start, end


def _elements(path: Path) -> Iterator[tuple[int, int]]:
    """The objects of a JSON list. Raises DatasetError if the file is not one."""
    malformed = DatasetError(f"{path}: not a JSON list of objects; write [{{…}}, {{…}}], or one object a line in a .jsonl")
    if not path.stat().st_size:
        raise malformed
    depth, start = 0, 0
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        for mark in _JSON_MARKS.finditer(text):
            symbol = mark.group()[:1]
            if symbol in b"{[":
                if depth == 0 and symbol != b"[":
                    raise malformed
                start = mark.start() if depth == 1 else start
                depth += 1
            elif symbol in b"}]":
                depth -= 1
                if depth == 1:
                    yield start, mark.end()
    if depth or not start:
        raise malformed


def _table_parser(path: Path) -> Callable[[bytes], Row]:
    csv.field_size_limit(_MOST_FIELD_BYTES)  # a field may be an image in base64
    separator = _SEPARATORS[path.suffix]

    def fields(record: bytes) -> list[str]:
        try:
            return next(csv.reader([record.decode("utf-8-sig").rstrip("\r\n")], delimiter=separator))
        except (UnicodeDecodeError, csv.Error, StopIteration) as error:
            raise RowError(f"not UTF-8 with {_NAMES[separator]} between the fields ({error})") from None

    with path.open("rb") as file:
        try:
            header = fields(file.readline())
        except RowError as error:
            raise DatasetError(f"{path}: the header is {error}") from None
    _require_different(path, header)

    def parse(record: bytes) -> Row:
        values = fields(record)
        if len(values) != len(header):
            raise RowError(f"{len(values)} fields, but the header has {len(header)}")
        return {name: value for name, value in zip(header, values, strict=True) if value}

    return parse


def _as_arrow(path: Path) -> Path:
    """The Arrow copy of a parquet file, which is made if it is missing or out of date. Raises DatasetError if it cannot be."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "toolwise", "datasets")
    name, state = hashlib.sha256(str(path.absolute()).encode()).hexdigest()[:24], path.stat()
    copy = cache / f"{name}-{state.st_size}-{state.st_mtime_ns}.arrow"
    if copy.exists():
        return copy
    source = pyarrow.parquet.ParquetFile(path)
    try:
        with replaced_file(copy) as unfinished:
            with pyarrow.OSFile(str(unfinished), "wb") as sink, pyarrow.ipc.new_stream(sink, source.schema_arrow) as writer:
                for batch in source.iter_batches(batch_size=_BATCH_ROWS):
                    writer.write_batch(batch)
            for older in cache.glob(f"{name}-*.arrow"):
                older.unlink(missing_ok=True)
    except OSError as error:
        if error.errno is None:  # of Arrow, which found the file itself broken
            raise
        reason = f"the copy that is read cannot be written to {cache} ({os.strerror(error.errno)})"
        raise DatasetError(f"{path}: {reason}: make room there, or name another directory in XDG_CACHE_HOME") from None
    return copy


def _saved(path: Path, split: str | None) -> pyarrow.Table:
    if (path / "dataset_dict.json").is_file():
        splits = _described(path / "dataset_dict.json", "splits")
        if split is None or split not in splits:
            raise DatasetError(f"{path} has the splits {', '.join(splits)}: choose one with options.split=")
        path = path / split
    if not (path / "state.json").is_file():
        raise DatasetError(f"{path} is not a dataset: write a directory that datasets.Dataset.save_to_disk has written, or a file")
    files = [path / entry["filename"] for entry in _described(path / "state.json", "_data_files")]
    try:
        return _mapped(files)
    except (OSError, pyarrow.ArrowException) as error:
        raise DatasetError(f"{path}: the dataset cannot be read ({' '.join(str(error).split())})") from None


def _described(file: Path, name: str) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))[name]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{file}: not as datasets.save_to_disk writes it ({error!r}): save the dataset again") from None


def _mapped(files: list[Path]) -> pyarrow.Table:
    return pyarrow.concat_tables([pyarrow.ipc.open_stream(pyarrow.memory_map(str(file))).read_all() for file in files])
