"""Questions from files: good rows become tasks, a bad one is named by file and row before anything runs."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from envs import resolve
from envs.datasets import Dataset
from envs.errors import DatasetError, UsageError


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_row_becomes_a_task(tmp_path):
    Image.new("RGB", (40, 30), "red").save(tmp_path / "a.png")
    path = write(tmp_path / "q.jsonl", {"question": "What colour?", "answer": "red", "images": ["a.png"], "ability": "perception"})
    task = Dataset(path)(np.random.default_rng(0))
    assert (task.question, task.answer, task.abilities, task.images[0].size) == ("What colour?", "red", ("perception",), (40, 30))


def test_half_a_character_is_read_as_a_replacement_character(tmp_path):
    """What is left of an emoji in a text that was cut within it; tokenizers and files reject it."""
    asked = [{"role": "user", "content": "A whole \U0001f600, half a \ud83d?"}]
    task = Dataset(write(tmp_path / "q.jsonl", {"messages": asked, "answer": "\ude00"})).task(0)
    assert (task.question, task.answer) == ("A whole \U0001f600, half a \ufffd?", "\ufffd")


def test_verl_parquet_is_read(tmp_path):
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.png")
    row = {
        "data_source": "perception",
        "prompt": [{"role": "user", "content": "<image>What colour?"}],
        "images": [{"bytes": (tmp_path / "a.png").read_bytes(), "path": None}],
        "ability": "perception",
        "reward_model": {"style": "rule", "ground_truth": "red"},
    }
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "q.parquet")
    task = Dataset(tmp_path / "q.parquet")(np.random.default_rng(0))
    assert (task.question, task.answer, task.source, len(task.images)) == ("What colour?", "red", "perception", 1)


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"question": "Q"}, "row 2: there is no answer"),
        ({"answer": "A"}, "row 2: there is no question"),
        ({"question": "Q", "answer": " "}, "row 2: there is no answer"),
        ({"question": "Q", "answer": "A", "images": ["missing.png"]}, "row 2: there is no image 'missing.png'"),
        ([1], "row 2: write an object"),
    ],
)
def test_a_bad_row_is_named(tmp_path, row, complaint):
    path = write(tmp_path / "q.jsonl", {"question": "Q", "answer": "A"}, row)
    with pytest.raises(DatasetError, match=complaint):
        Dataset(path)


@pytest.mark.parametrize(("name", "complaint"), [("q.txt", "format"), ("none.jsonl", "no such file")])
def test_a_file_that_cannot_be_used_is_refused(tmp_path, name, complaint):
    with pytest.raises(DatasetError, match=complaint):
        Dataset(tmp_path / name)


def test_tasks_may_be_a_file_or_an_environment(tmp_path):
    path = write(tmp_path / "q.jsonl", {"question": "Q", "answer": "A"})
    assert resolve(str(path)) == ("toolwise/Dataset-v0", {"path": str(path)})
    assert resolve("train.jsonl", {"path": str(path)})[1] == {"path": str(path)}, "a split has a file of its own"
    assert resolve("toolwise/Microworld-v0", {"split": "test"}) == ("toolwise/Microworld-v0", {"split": "test"})


def test_a_misspelt_environment_is_answered_with_the_nearest():
    with pytest.raises(UsageError, match="did you mean toolwise/Microworld-v0"):
        resolve("toolwise/Microwrld-v0")


def test_a_module_without_an_environment_is_answered_with_how_it_is_written():
    with pytest.raises(UsageError) as refused:
        resolve("parcels")
    assert "did you mean" not in str(refused.value) and "as in my_module:MyEnv-v0" in str(refused.value)
