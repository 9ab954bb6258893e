"""What is said when files of questions do not hold out what a run is measured on."""

import json

import pytest
from PIL import Image

from learner.experiment import Experiment, TaskOptions
from learner.held_out import doubts


@pytest.fixture
def said(tmp_path):
    """Writes the rows of each split to a file of its own, or else asks those of train, and returns what is said."""

    def ask(options_of, **rows_of):
        for split, rows in rows_of.items():
            (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        options = {
            split: {"path": str(tmp_path / f"{split if split in rows_of else 'train'}.jsonl")} | options_of(split)
            for split in ("train", "validation", "test")
        }
        return list(doubts(Experiment(tasks=str(tmp_path / "train.jsonl"), task_options=TaskOptions(**options))))

    return ask


def whole(split):
    return {"split": None}


def divided(split):
    return {"split": split}


def sums(*numbers):
    return [{"question": f"{number} + {number}?", "answer": str(2 * number)} for number in numbers]


def test_a_tenth_of_a_file_that_no_other_split_asks_is_said(said, tmp_path):
    (line,) = [line for line in said(divided, train=sums(*range(99)), test=sums(*range(100, 150))) if line.startswith("test")]
    assert line.endswith(
        f"of 50 rows of {tmp_path}/test.jsonl, and no other split asks the rest: task_options.test.split=null asks all"
    )


def test_questions_that_are_trained_on_too_are_counted_and_named(said, tmp_path):
    (line,) = said(whole, train=sums(*range(9)), validation=sums(20), test=sums(11, 8, 7, 6, 5))
    assert line == f"4 of 5 questions of test are trained on as well: rows 2, 3, 4, … of {tmp_path}/test.jsonl"


def test_the_same_words_about_another_picture_are_another_question(said, tmp_path):
    for name, colour in {"a": "red", "b": "blue", "c": "red"}.items():
        Image.new("RGB", (32, 32), colour).save(tmp_path / f"{name}.bmp")
    asked = {name: {"question": "Which colour?", "answer": "red", "image": f"{name}.bmp"} for name in "abc"}
    (line,) = said(whole, train=[asked["a"]], validation=[asked["b"]], test=[asked["b"], asked["c"]])
    assert line == f"1 of 2 questions of test are trained on as well: row 2 of {tmp_path}/test.jsonl"


def test_a_file_that_is_divided_by_its_questions_gives_no_doubt(said):
    assert said(divided, train=sums(*range(60))) == []


def test_a_file_that_every_split_asks_whole_is_trained_on_whole(said):
    assert [line.partition(":")[0] for line in said(whole, train=sums(1, 2))] == [
        "2 of 2 questions of validation are trained on as well",
        "2 of 2 questions of test are trained on as well",
    ]
