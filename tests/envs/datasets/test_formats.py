"""Each form in which the field keeps questions becomes the same tasks; what a row gets wrong is said."""

import base64
import csv
import io
import json
import sys

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from envs import resolve
from envs.datasets import Dataset
from envs.errors import DatasetError
from envs.scoring.types import Kind


def png(colour="red", size=(40, 30)):
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


def only(path, **options):
    return Dataset(path, **options)(np.random.default_rng(0))


def write_lines(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_tsv(path, *rows):
    """As pandas writes it, which is how VLMEvalKit's files are made."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, names, delimiter="\t", restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return path


def encoded(colour="red"):
    return base64.b64encode(png(colour)).decode()


def verl_row(**more):
    return {
        "data_source": "reason",
        "prompt": [{"role": "system", "content": "Use tools."}, {"role": "user", "content": "<image>How many?"}],
        "images": [{"bytes": png(), "path": None}],
        "reward_model": {"style": "rule", "ground_truth": "7"},
    } | more


@pytest.mark.parametrize("kept", ["bytes", "mapping", "path"])
def test_verl_rows_keep_images_as_bytes_mappings_or_paths(tmp_path, kept):
    (tmp_path / "a.png").write_bytes(png())
    image = {"bytes": png(), "mapping": {"bytes": None, "path": "a.png"}, "path": "a.png"}[kept]
    pq.write_table(pa.Table.from_pylist([verl_row(images=[image])]), tmp_path / "q.parquet")
    task = only(tmp_path / "q.parquet")
    assert (task.question, task.answer, task.abilities, task.images[0].size) == ("How many?", "7", ("reasoning",), (40, 30))


@pytest.mark.parametrize(("name", "tools"), [("deepeyes_v2", None), ("code_toolbox_lingyi_v1", ("code",))])
def test_an_env_name_of_deepeyes_says_which_tools_are_allowed(tmp_path, name, tools):
    pq.write_table(pa.Table.from_pylist([verl_row(env_name=name)]), tmp_path / "q.parquet")
    assert only(tmp_path / "q.parquet").tools == tools


def test_an_env_name_that_does_not_exist_is_named(tmp_path):
    pq.write_table(
        pa.Table.from_pylist([verl_row(env_name="deepeyes_v2"), verl_row(env_name="visual_toolbox")]), tmp_path / "q.parquet"
    )
    with pytest.raises(DatasetError, match="row 2: there is no env_name 'visual_toolbox'; write one of deepeyes_v2"):
        Dataset(tmp_path / "q.parquet")


def test_a_tsv_of_vlmevalkit_is_multiple_choice(tmp_path):
    path = write_tsv(
        tmp_path / "VStar.tsv",
        {
            "index": 0,
            "image": encoded(),
            "question": 'Which "one"?\nLook.',
            "A": "a cat",
            "B": "a dog",
            "answer": "B",
            "category": "attr",
        },
    )
    task = only(path)
    assert task.question == 'Which "one"?\nLook.\nA. a cat\nB. a dog'
    assert (task.answer, task.scoring.kind, task.abilities) == ("B", Kind.CHOICE, ("attr",))
    assert task.images[0].getpixel((0, 0)) == (255, 0, 0)


def test_an_image_of_a_tsv_may_be_that_of_another_row(tmp_path):
    rows = [
        {"index": 7, "image": encoded("blue"), "question": "Q", "answer": "A"},
        {"index": 8, "image": "7", "question": "Q", "answer": "A"},
    ]
    data = Dataset(write_tsv(tmp_path / "q.tsv", *rows))
    drawn = [data(np.random.default_rng(seed)) for seed in range(8)]
    assert {task.task_id for task in drawn} == {"q-1", "q-2"}
    assert {task.images[0].getpixel((0, 0)) for task in drawn} == {(0, 0, 255)}


def test_several_images_of_a_tsv_stand_in_a_list(tmp_path):
    path = write_tsv(tmp_path / "q.tsv", {"index": 0, "image": str([encoded(), encoded("blue")]), "question": "Q", "answer": "A"})
    assert [image.getpixel((0, 0)) for image in only(path).images] == [(255, 0, 0), (0, 0, 255)]


def test_a_quote_amid_a_field_of_a_tsv_is_a_character(tmp_path):
    path = tmp_path / "q.tsv"
    path.write_text('question\tanswer\nHow long is a 5" pipe?\tA\n"two\nlines"\tB\n')
    data = Dataset(path)
    assert {task.question: task.answer for task in map(data.task, range(len(data)))} == {
        'How long is a 5" pipe?': "A",
        "two\nlines": "B",
    }


def test_a_quoted_field_of_a_csv_may_hold_commas_quotes_and_lines(tmp_path):
    path = tmp_path / "q.csv"
    path.write_text('metadata,problem,answer\n"{\'topic\': \'Art\', \'n\': 1}","Who said ""no"",\nand when?","Ada, 1843"\n')
    task = only(path)
    assert (task.question, task.answer) == ('Who said "no",\nand when?', "Ada, 1843")


def test_an_answer_that_is_no_option_is_named(tmp_path):
    path = write_tsv(tmp_path / "q.tsv", {"question": "Q", "A": "x", "B": "y", "answer": "C"})
    with pytest.raises(DatasetError, match="row 1: the answer 'C' is none of the options A, B"):
        Dataset(path)


@pytest.mark.parametrize(
    ("labels", "ability"),
    [
        ({"ability": ["perception", "search"]}, "perception+search"),
        ({"perception": True, "reasoning": True, "search": True}, "perception+reasoning+search+integration"),
        ({"perception": True, "reasoning": False, "search": False}, "perception"),
    ],
)
def test_the_labels_of_realx_bench_are_abilities(tmp_path, labels, ability):
    path = tmp_path / "realx.json"
    path.write_text(json.dumps([{"question": "Q {x} [y]", "answer": "A"} | labels]))
    assert only(path).abilities == tuple(ability.split("+"))


def test_messages_of_openai_have_their_images_as_parts(tmp_path):
    url = f"data:image/png;base64,{encoded()}"
    content = [{"type": "text", "text": "What colour?"}, {"type": "image_url", "image_url": {"url": url}}]
    messages = [{"role": "user", "content": content}, {"role": "assistant", "content": "red"}]
    task = only(write_lines(tmp_path / "q.jsonl", {"messages": messages}))
    assert (task.question, task.answer, len(task.images)) == ("What colour?", "red", 1)


def test_an_image_that_is_elsewhere_is_refused(tmp_path):
    content = [{"type": "text", "text": "Q"}, {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}]
    path = write_lines(tmp_path / "q.jsonl", {"messages": [{"role": "user", "content": content}], "answer": "A"})
    with pytest.raises(DatasetError, match=r"row 1: the image https://example\.org/a\.png is not local"):
        Dataset(path)


def test_the_truth_of_a_sharegpt_row_is_what_its_answer_tag_holds(tmp_path):
    (tmp_path / "a.png").write_bytes(png())
    said = [{"from": "human", "value": "<image>What colour?"}, {"from": "gpt", "value": "<think>…</think><answer> red </answer>"}]
    path = tmp_path / "q.json"
    path.write_text(json.dumps([{"conversations": said, "images": ["a.png"]}]))
    task = only(path)
    assert (task.question, task.answer, len(task.images)) == ("What colour?", "red", 1)


def test_a_directory_of_hugging_face_datasets_is_read(tmp_path):
    rows = {"question": ["Q1", "Q2"], "answer": ["1", "2"], "image": [Image.new("RGB", (8, 8), "red")] * 2}
    features = datasets.Features(
        {"question": datasets.Value("string"), "answer": datasets.Value("string"), "image": datasets.Image()}
    )
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "saved")
    assert len(Dataset(tmp_path / "saved")) == 2
    assert only(tmp_path / "saved").images[0].size == (8, 8)


def test_the_splits_of_a_directory_are_its_own(tmp_path):
    parts = {name: datasets.Dataset.from_dict({"question": [name], "answer": ["1"]}) for name in ("train", "held_out")}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "saved")
    assert only(tmp_path / "saved", split="held_out").question == "held_out"
    with pytest.raises(DatasetError, match=r"has the splits train, held_out: choose one with options.split="):
        Dataset(tmp_path / "saved")


def test_a_row_carries_its_rule_of_scoring(tmp_path):
    row = {"question": "How far?", "answer": "12", "scoring": {"kind": "number", "unit": "km", "relative": 0.05}}
    assert only(write_lines(tmp_path / "q.jsonl", row)).scoring.unit == "km"


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"tools": ["hammer"]}, "tools has 'hammer', and there is no such tool; write some of code, image_search, text_search"),
        ({"scoring": {"kind": "smell"}}, "the scoring cannot be used"),
        ({"images": [{"bytes": None, "path": None}]}, "there is no image"),
    ],
)
def test_what_cannot_be_used_is_said(tmp_path, row, complaint):
    with pytest.raises(DatasetError, match=f"row 1: {complaint}"):
        resolve(str(write_lines(tmp_path / "q.jsonl", {"question": "Q", "answer": "A"} | row)))


def test_the_tools_that_a_row_allows_are_those_of_its_episode(tmp_path):
    import gymnasium

    path = write_lines(tmp_path / "q.jsonl", {"question": "Q", "answer": "A", "tools": []})
    env_id, options = resolve(str(path))
    env = gymnasium.make(env_id, **options)
    env.reset(seed=0)
    observation, *_ = env.step("<code>\n```python\n1\n```\n</code>")
    env.close()
    assert observation["text"] == "There is no tool 'code'. Available: none."


def test_malformed_rows_are_left_out_by_choice_and_named(tmp_path, caplog):
    path = tmp_path / "q.jsonl"
    path.write_text('{"question": "Q", "answer": "A"}\n{"question": \n[1]\n{"question": "Q2", "answer": "B"}\n{"question": "Q3"}\n')
    data = Dataset(path, malformed="skip")
    assert (len(data), data.skipped) == (2, 3)
    assert "3 malformed rows are left out: row 2: not JSON" in caplog.text
    assert "row 3: write an object" in caplog.text
    assert "row 5: there is no answer" in caplog.text


def test_all_malformed_rows_are_counted_before_anything_runs(tmp_path):
    path = write_lines(tmp_path / "q.jsonl", *[{"question": "Q"}] * 5)
    with pytest.raises(DatasetError, match=r"row 3: .*; and 2 more \(malformed=skip"):
        resolve(str(path))


@pytest.mark.parametrize("text", ["", "{}", "[[1]]", '[{"question": "Q", "answer": "A"}', "nonsense"])
def test_a_json_file_that_is_no_list_of_objects_is_refused(tmp_path, text):
    path = tmp_path / "q.json"
    path.write_text(text)
    with pytest.raises(DatasetError):
        Dataset(path)


def test_a_cache_that_cannot_be_written_is_not_taken_for_a_broken_file(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "q.parquet" / "cache"))
    pq.write_table(pa.Table.from_pylist([{"question": "Q", "answer": "A"}]), tmp_path / "q.parquet")
    with pytest.raises(DatasetError, match=r"q\.parquet: the copy .*: make room there, or .* in XDG_CACHE_HOME"):
        Dataset(tmp_path / "q.parquet")


@pytest.mark.skipif(sys.platform != "linux", reason="reads the resident memory in /proc")
@pytest.mark.parametrize("suffix", [".jsonl", ".parquet", ".tsv"])
def test_memory_does_not_grow_with_the_file(tmp_path, monkeypatch, suffix):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)

    def noise():
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (256, 256, 3), dtype=np.uint8)).save(buffer, "BMP")
        return buffer.getvalue()

    path, rows = tmp_path / f"q{suffix}", ({"index": n, "question": f"Q{n}", "answer": "A", "image": noise()} for n in range(160))
    if suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(list(rows)), path)
    elif suffix == ".tsv":
        write_tsv(path, *(row | {"image": base64.b64encode(row["image"]).decode()} for row in rows))
    else:
        url = "data:image/png;base64,"
        write_lines(path, *(row | {"image": url + base64.b64encode(row["image"]).decode()} for row in rows))
    assert path.stat().st_size > 30 << 20
    Dataset(path)
    before = anonymous_bytes()
    data = Dataset(path)
    for seed in range(20):
        data(np.random.default_rng(seed))
    assert anonymous_bytes() - before < 10 << 20


def anonymous_bytes():
    """Resident memory that no file stands behind: what is mapped costs nothing."""
    with open("/proc/self/status") as status:
        (line,) = [line for line in status if line.startswith("RssAnon")]
    return int(line.split()[1]) << 10
