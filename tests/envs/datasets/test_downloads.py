"""A downloaded file that is not what its suffix says ends in one line that says what to do; other line ends and a byte order mark
are read."""

import gzip
import io
import json
import zipfile

import pyarrow as pa
import pyarrow.parquet
import pytest

from envs import resolve
from envs.datasets import Dataset
from envs.datasets.published import Reading
from envs.errors import DatasetError, UsageError

ROWS = [{"question": "What is 6 * 7?", "answer": "42"}, {"question": "Grün?", "answer": "no"}]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
TABLE = "question\tanswer\n" + "".join(f"{row['question']}\t{row['answer']}\n" for row in ROWS)
COMMAS = "question,answer\n" + "".join(f"{row['question']},{row['answer']}\n" for row in ROWS)
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
PAGE = b"\n<!DOCTYPE html>\n<html><body>Invalid username or password.</body></html>\n"


def parquet():
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pa.Table.from_pylist(ROWS), buffer)
    return buffer.getvalue()


def archive():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as packed:
        packed.writestr("a.jsonl", LINES)
    return buffer.getvalue()


REFUSED = {
    **{f"pointer.{suffix}": (POINTER, "git lfs pull") for suffix in ("parquet", "tsv", "jsonl", "json")},
    **{f"page.{suffix}": (PAGE, "download the file itself") for suffix in ("parquet", "tsv", "jsonl", "json")},
    **{f"packed.{suffix}": (gzip.compress(LINES.encode()), "unpack it") for suffix in ("parquet", "tsv", "jsonl", "json")},
    "zip.json": (archive(), "unpack it"),
    "zstd.jsonl": (b"\x28\xb5\x2f\xfd\x00", "unpack it"),
    "arrow.jsonl": (parquet(), "give it the suffix .parquet"),
    "lines.parquet": (LINES.encode(), "give it the suffix .jsonl"),
    "list.parquet": (json.dumps(ROWS).encode(), "give it the suffix .json"),
    "half.parquet": (parquet()[:200], "download it again"),
    "wide.jsonl": (LINES.encode("utf-16"), "save it as UTF-8"),
    "wide.tsv": (TABLE.encode("utf-16"), "save it as UTF-8"),
    "commas.tsv": (b"question,answer\nA?,b\n", "separated by commas: name it .csv"),
    "tabs.csv": (b"question\tanswer\nA?\tb\n", "separated by tabs: name it .tsv"),
    "europe.csv": (b"question;answer\nA?;b\n", "separated by semicolons: write commas"),
    "rows.jsonl.gz": (gzip.compress(LINES.encode()), "unpack it first"),
    "rows.zip": (archive(), "unpack it first"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_data_is_one_line_with_the_remedy(tmp_path, monkeypatch, name):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    content, remedy = REFUSED[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DatasetError) as refusal:
        Dataset(tmp_path / name)
    assert name in str(refusal.value) and remedy in str(refusal.value) and "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", ["rows.jsonl.gz", "rows.zip"])
def test_a_file_of_another_suffix_is_not_taken_for_an_environment(tmp_path, name):
    (tmp_path / name).write_bytes(REFUSED[name][0])
    with pytest.raises(UsageError, match=REFUSED[name][1]):
        resolve(str(tmp_path / name), {})


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize(
    ("name", "text"), [("a.jsonl", LINES), ("a.json", json.dumps(ROWS, indent=1)), ("a.tsv", TABLE), ("a.csv", COMMAS)]
)
def test_line_ends_and_a_byte_order_mark_are_read(tmp_path, name, text, encoding, end):
    (tmp_path / name).write_bytes(text.replace("\n", end).encode(encoding))
    data = Dataset(tmp_path / name)
    assert [(task.question, task.answer) for task in map(data.task, range(len(data)))] == [tuple(row.values()) for row in ROWS]


def test_a_published_form_is_read_although_a_column_is_renamed(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"query": "Who?", "loesung": "Ada"}\n')
    with pytest.raises(DatasetError, match=r"columns=\{answer: NAME\}"):
        Dataset(tmp_path / "a.jsonl", reading=Reading(form="mmsearch"))
    renamed = Dataset(tmp_path / "a.jsonl", reading=Reading(form="mmsearch"), columns={"answer": "loesung"})
    assert renamed.task(0).answer == "Ada"
