"""What `curate` writes is read back as it was put, from a world or from a file of any form, and has the form that verl reads."""

import io
import json

import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image

from curation.questions import SCHEMA, Questions, difference, row_of, written
from envs import resolve
from envs.datasets import Dataset
from envs.datasets.types import Question
from envs.errors import UsageError
from envs.scoring import Kind, Scoring
from rollout.episode.environments import make
from rollout.specs import group_specs
from rollout.types import EpisodeSpec


def png(shade, size=(64, 48)):
    encoded = io.BytesIO()
    Image.new("RGB", size, (shade, 40, 90)).save(encoded, "PNG")
    return encoded.getvalue()


def asked_of(tasks, options=None, count=1):
    """The first questions of some tasks, with their specs."""
    resolved = resolve(tasks, options or {})
    from envs import row_numbers

    specs = group_specs("q", resolved, groups=count, seed=0, rows=row_numbers(*resolved))
    questions = Questions(resolved)
    try:
        return [(*questions.of(group.episodes[0]), group.episodes[0]) for group in specs]
    finally:
        questions.close()


def write(path, asked, tasks):
    with written(path, SCHEMA) as rows:
        for place, (task_id, question, spec) in enumerate(asked):
            row = row_of(question, task_id, spec, tasks, place)
            assert difference(row, question) is None
            rows.add(row)


ROWS = [
    {"question": "What is 6 times 7?", "answer": "42"},
    {"question": "Who is it?", "answers": ["Ada Lovelace", "Ada"], "data_source": "people", "ability": "search"},
    {"question": "Which is red?", "options": {"A": "the rose", "B": "the sky"}, "answer": "A"},
    {"question": "How long is it?", "answer": 2.5, "unit": "m", "scoring": {"kind": "number", "relative": 0.1, "unit": "m"}},
    {"question": "Name them.", "answer": "a, b", "scoring": {"kind": "list", "ordered": False}},
    {"question": "Why?", "answer": "Because.", "reward_model": {"style": "model", "ground_truth": "Because."}},
    {"question": r"What is \frac{1}{2} + 1?", "answer": r"\frac{3}{2}"},
    {"prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Which?"}], "answer": "this"},
    {"question": "Context?", "hint": "A passage.", "answer": "yes", "needed_tools": [], "tools": ["code"]},
    {"question": "All?", "answer": "7", "ability": ["perception", "reasoning", "search"]},
]


def test_rows_of_every_form_are_read_back_as_they_were_put(tmp_path):
    source, copy = tmp_path / "q.jsonl", tmp_path / "copy.parquet"
    source.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    asked = asked_of(str(source), count=len(ROWS))
    write(copy, asked, str(source))
    first = {number: Dataset(source).question(number) for number in range(1, len(ROWS) + 1)}
    for place, (_, _, spec) in enumerate(asked):
        expected, found = first[spec.env_kwargs["number"]], Dataset(copy).task(place)
        assert (found.question, found.answer, found.abilities) == (expected.text, expected.answer, expected.abilities)
        assert (found.scoring, found.system) == (expected.scoring, expected.system)
        assert (found.needed_tools, found.tools, found.source) == (expected.needed_tools, expected.tools, expected.source or "q")


def test_pictures_of_a_file_keep_their_bytes(tmp_path):
    (tmp_path / "a.png").write_bytes(png(10))
    (tmp_path / "b.png").write_bytes(png(200))
    row = {"question": "<image>Which of them, <image>?", "answer": "1", "images": ["a.png", "b.png"]}
    (tmp_path / "q.jsonl").write_text(json.dumps(row) + "\n")
    asked = asked_of(str(tmp_path / "q.jsonl"))
    write(tmp_path / "copy.parquet", asked, "q.jsonl")
    again = Dataset(tmp_path / "copy.parquet").question(1)
    assert again.pictures == (png(10), png(200))
    assert again.text == asked[0][1].text == "Which of them, [image 2]?"


@pytest.mark.parametrize("tasks", ["toolwise/Mixture-v0", "toolwise/Errands-v0"])
def test_a_world_s_questions_are_put_again_as_they_were(tmp_path, tasks):
    path = tmp_path / "rl.parquet"
    asked = asked_of(tasks, {"split": "train"}, count=8)
    write(path, asked, tasks)
    data, world = Dataset(path), make(tasks, {"split": "train"})
    env = make(*resolve(str(path)))
    for number, (task_id, _, spec) in enumerate(asked, 1):
        shown, _ = world.reset(seed=spec.env_seed)
        again, info = env.reset(options={"task": data.row(number)})
        assert again["text"] == shown["text"]
        assert all(np.array_equal(one, other) for one, other in zip(again["images"], shown["images"], strict=True))
        task = world.unwrapped.task
        assert (task.answer, task.needed_tools, task.scoring) == (env.unwrapped.task.answer, info["needed_tools"], task.scoring)
        assert [image.size for image in env.unwrapped.task.images] == [image.size for image in task.images], "tools see all of it"
        assert task_id == task.task_id
    env.close()
    world.close()


def test_the_rows_have_verl_s_form(tmp_path):
    path = tmp_path / "rl.parquet"
    write(path, asked_of("toolwise/Microworld-v0", {"split": "train"}, count=6), "toolwise/Microworld-v0")
    for row in pyarrow.parquet.read_table(path).to_pylist():
        content = row["prompt"][-1]["content"]
        assert content.count("<image>") == len(row["images"])  # verl asserts it
        assert set(row["reward_model"]) == {"style", "ground_truth"} and row["data_source"] == "microworld"
        assert all(Image.open(io.BytesIO(image["bytes"])).size == (448, 448) for image in row["images"])
        assert isinstance(row["extra_info"]["index"], int)


def test_columns_that_curate_adds_are_not_reported(tmp_path, caplog):
    path = tmp_path / "rl.parquet"
    write(path, asked_of("toolwise/Reasoning-v0", {"split": "train"}, count=2), "toolwise/Reasoning-v0")
    Dataset(path)
    assert not caplog.records


@pytest.mark.parametrize(
    ("question", "why"),
    [
        (Question("What does <image> mean?", "a placeholder", ("other",)), "placeholder"),
        (Question("Q", "x" * 300, ("other",)), "300"),
        (Question("Q", "", ("other",)), "no answer"),
    ],
)
def test_what_would_be_read_differently_is_found(question, why):
    (_, _, spec), *_ = asked_of("toolwise/Reasoning-v0")
    found = difference(row_of(question, "t", spec, "tasks", 0), question)
    assert found is not None and why in found


def test_half_an_emoji_can_be_written_and_is_found(tmp_path):
    spec = EpisodeSpec("q", "q", "x", env_seed=0, sampling_seed=0)
    question = Question("Which \ud83d?", "A", ("other",), scoring=Scoring(Kind.CHOICE, options=(("A", "\ud83d"), ("B", "b"))))
    row = row_of(question, "t", spec, "tasks", 0)
    with written(tmp_path / "dropped.parquet", SCHEMA) as rows:
        rows.add(row)
    assert "text would be read as 'Which \ufffd?" in (difference(row, question) or "")


def test_a_judged_row_says_so_to_verl():
    (_, _, spec), *_ = asked_of("toolwise/Reasoning-v0")
    row = row_of(Question("Q", "A", ("other",), scoring=Scoring(Kind.JUDGE)), "t", spec, "tasks", 0)
    assert row["reward_model"]["style"] == "model"


def test_views_are_one_for_each_picture(tmp_path):
    path = tmp_path / "q.json"
    path.write_text(json.dumps([{"question": "Q", "answer": "A", "images": ["a.png"], "image_views": ["a.png", "a.png"]}]))
    (tmp_path / "a.png").write_bytes(png(10))
    with pytest.raises(UsageError, match="image_views has 2 pictures, and there are 1 images"):
        Dataset(path)
