"""Corpora: the forms of the field are read, with nothing lost; rows that are no documents are counted and said, and a file that has
none is refused with the names that it has."""

import csv
import gzip
import json
import logging

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from envs.errors import UsageError
from envs.search.corpora import count_rows, read_corpus
from envs.search.types import Document

FORMS = {
    "ours": ({"title": "T", "text": "Words.", "source": "s"}, Document("T", "Words.", "s")),
    "text alone": ({"text": "Only words.", "url": "https://u"}, Document("", "Only words.", "https://u")),
    "Search-R1": ({"id": 7, "contents": '"Wiki"\nWords.'}, Document("Wiki", "Words.", "7")),
    "Pyserini, one line": ({"id": "d", "contents": "The Zugspitze is high."}, Document("", "The Zugspitze is high.", "d")),
    "one line in quotes": ({"id": "d", "contents": '"Alps"'}, Document("", '"Alps"', "d")),
    "one line and its end": ({"id": "d", "contents": "Words.\n"}, Document("", "Words.", "d")),
    "FlashRAG": ({"id": "0", "contents": "Alps\nMountains.\nHigh."}, Document("Alps", "Mountains.\nHigh.", "0")),
    "a text of two lines": ({"id": "0", "contents": "It is high.\nIt is cold."}, Document("", "It is high.\nIt is cold.", "0")),
    "a title that holds quotes": ({"id": "0", "contents": '"The "Alps""\nHigh.'}, Document('The "Alps"', "High.", "0")),
    "contents and title": ({"title": "T", "contents": '"Not it"\nWords.'}, Document("T", '"Not it"\nWords.', "")),
    "BEIR": ({"_id": "4", "title": "", "text": "Words.", "metadata": {}}, Document("", "Words.", "4")),
    "MS MARCO passages": ({"pid": 9, "passage": "Words."}, Document("", "Words.", "9")),
    "MS MARCO documents": ({"docid": "D1", "url": "u", "title": "T", "body": "Words."}, Document("T", "Words.", "u")),
    "KILT": ({"wikipedia_id": 1, "wikipedia_title": "T", "text": ["One.", "Two."]}, Document("T", "One.\n\nTwo.", "1")),
    "DPR": ({"id": "1", "text": "Words.", "title": "T"}, Document("T", "Words.", "1")),
    "null beside it": ({"text": None, "contents": "Words here.", "title": None}, Document("", "Words here.", "")),
    "not a number": ({"text": "Words.", "title": float("nan")}, Document("", "Words.", "")),
}


@pytest.mark.parametrize(("row", "document"), FORMS.values(), ids=FORMS)
def test_the_forms_of_the_field_are_read(tmp_path, row, document):
    (tmp_path / "corpus.jsonl").write_text(json.dumps(row) + "\n")
    assert list(read_corpus(tmp_path / "corpus.jsonl")) == [document]


def _jsonl(path, rows):
    path.write_text("\ufeff" + "\n".join(json.dumps(row) for row in rows) + "\n\n", encoding="utf-8")


def _table(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
        writer.writeheader()
        writer.writerows(rows)


def _compressed(path, rows):
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))


WRITERS = {
    "corpus.jsonl": _jsonl,
    "corpus.json": lambda path, rows: path.write_text(json.dumps(rows, indent=1)),
    "corpus.jsonl.gz": _compressed,
    "psgs_w100.tsv": _table,
    "corpus.csv": _table,
    "corpus.parquet": lambda path, rows: pq.write_table(pa.Table.from_pylist(rows), path),
}


@pytest.mark.parametrize(("name", "write"), WRITERS.items(), ids=WRITERS)
def test_each_kind_of_file_is_read(tmp_path, name, write):
    rows = [{"id": str(number), "text": f'Words, "{number}"\tand more.', "title": "京"} for number in range(300)]
    write(tmp_path / name, rows)
    assert list(read_corpus(tmp_path / name)) == [Document("京", row["text"], row["id"]) for row in rows]
    assert count_rows(tmp_path / name) >= 300


BAD = {"no text": '{"title": "T"}', "not JSON": "nonsense", "a list": "[1]", "blank": '{"text": " "}', "a number": '{"text": 7}'}


@pytest.mark.parametrize("line", BAD.values(), ids=BAD)
def test_rows_that_are_no_documents_are_left_out_and_counted(tmp_path, caplog, line):
    (tmp_path / "corpus.jsonl").write_text(f'{{"text": "Words."}}\n{line}\n{{"text": "More."}}\n{line}\n')
    with caplog.at_level(logging.WARNING):
        assert [document.text for document in read_corpus(tmp_path / "corpus.jsonl")] == ["Words.", "More."]
    assert "2 of 4 rows are no documents and are left out; row 2: " in caplog.text


@pytest.mark.parametrize("line", BAD.values(), ids=BAD)
def test_a_file_without_documents_is_refused_with_the_first_reason(tmp_path, line):
    (tmp_path / "corpus.jsonl").write_text(f"{line}\n" * 200)
    with pytest.raises(UsageError, match=r"corpus\.jsonl, row 1: "):
        list(read_corpus(tmp_path / "corpus.jsonl"))


REFUSED = {
    "corpus.jsonl": (b'{"question": "Q", "answer": "A"}\n', "the row has question, answer"),
    "empty.jsonl": (b"\n", "no rows"),
    "corpus.txt": (b"Words.", "in one of the forms .jsonl"),
    "corpus.parquet": (b"PAR1", "parquet"),
    "object.json": (b'{"text": "Words."}', "list of objects"),
    "broken.json": (b"[", "cannot be read"),
    "latin.jsonl": (b'{"text": "\xe9"}', "not UTF-8"),
    "corpus.jsonl.gz": (b"not gzip", "cannot be read"),
}


@pytest.mark.parametrize(("name", "content", "reason"), [(name, *rest) for name, rest in REFUSED.items()], ids=REFUSED)
def test_a_file_in_no_form_is_refused_in_one_line(tmp_path, name, content, reason):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=reason) as refused:
        list(read_corpus(tmp_path / name))
    assert "\n" not in str(refused.value)


def test_a_directory_is_refused(tmp_path):
    with pytest.raises(UsageError, match="is a directory"):
        list(read_corpus(tmp_path))
