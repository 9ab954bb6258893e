"""A row of each form of the field is read as its authors mean it; what is not understood is refused by its name, never dropped."""

import base64

import gymnasium
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rows_of_the_field import READ, REFUSED, THREE, chat, png, read, said, verl, written

from envs import resolve, row_numbers
from envs.datasets import Dataset
from envs.errors import DatasetError, ItemError, RowError
from envs.scoring import is_right


@pytest.mark.parametrize("name", READ)
def test_a_row_is_read_as_its_authors_mean_it(tmp_path, name):
    row, *expected = READ[name]
    task = read(tmp_path, row)
    assert [task.question, task.answer, task.scoring.kind, task.scoring.accepted, len(task.images)] == expected


@pytest.mark.parametrize("name", [name for name, (*_, kind, _, _) in READ.items() if kind not in ("judge", "math")])
async def test_the_rows_own_truth_is_right(tmp_path, name):
    task = read(tmp_path, READ[name][0])
    assert await is_right(task.question, task.answer, task.answer, task.scoring)


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_understood_is_refused_by_its_name(tmp_path, name):
    row, complaint = REFUSED[name]
    with pytest.raises(DatasetError, match=f"row 1: .*{complaint}"):
        read(tmp_path, row)


@pytest.mark.parametrize(
    "answer", ["B", "b", "(B)", "B.", "B)", "[b]", "B. y", "(b) y", "y", "Y.", "Answer: B", "The answer is B.", "option B", 1]
)
def test_the_right_option_may_be_written_in_any_dress(tmp_path, answer):
    assert read(tmp_path, {"question": "Q", "answer": answer, **THREE}).answer == "B"


@pytest.mark.parametrize(
    "answer", ["A,C", "C, A", "AC", "A and C", "A;C", "A / C", "(A)(C)", "x, z", ["A", "C"], ["z", "x"], '["A", "C"]']
)
def test_several_right_options_are_right_together(tmp_path, answer):
    task = read(tmp_path, {"question": "Q", "answer": answer, **THREE})
    assert (task.answer, task.scoring.accepted) == ("A, C", ())


def test_either_option_may_be_right(tmp_path):
    task = read(tmp_path, {"question": "Q", "answer": "A or C", **THREE})
    assert (task.answer, task.scoring.accepted) == ("A", ("C",))


@pytest.mark.parametrize(
    "options",
    [
        {"A": "x", "B": "y"},
        {"option_a": "x", "option_b": "y"},
        {"option1": "x", "option2": "y"},
        {"choices": {"A": "x", "B": "y"}},
        {"choices": [{"label": "A", "text": "x"}, {"label": "B", "text": "y"}]},
        {"options": ["A. x", "B. y"]},
        {"options": ["(A) x", "(B) y"]},
        {"options": '["x", "y"]'},
        {"options": "A. x\nB. y"},
        {"options": "(A) x (B) y"},
        {"scoring": {"kind": "choice", "options": {"A": "x", "B": "y"}}},
    ],
    ids=str,
)
def test_options_of_any_form_are_shown_and_scored(tmp_path, options):
    task = read(tmp_path, {"question": "Q", "answer": "B", **options})
    assert (task.question, task.answer, task.scoring.options) == ("Q\nA. x\nB. y", "B", (("A", "x"), ("B", "y")))


@pytest.mark.parametrize(
    "row",
    [
        {"system": "French.", "conversations": said("Q", "a")},
        {"messages": [{"role": "developer", "content": "French."}, *chat("Q", "a")]},
        {"prompt": [{"role": "system", "content": [{"type": "text", "text": "French."}]}, *chat("Q")], "answer": "a"},
        {"system_prompt": "French.", "question": "Q", "answer": "a"},
    ],
    ids=["column", "message", "verl", "text"],
)
def test_a_system_prompt_reaches_the_policy(tmp_path, row):
    import gymnasium

    env_id, options = resolve(str(written(tmp_path, row)))
    env = gymnasium.make(env_id, **options)
    observation, _ = env.reset(seed=0)
    assert observation["text"] == "French.\n\nQ"


@pytest.mark.parametrize(
    ("columns", "row", "expected"),
    [
        ({"question": "P", "answer": "S"}, {"P": "p", "S": "s"}, ("p", "s", 0)),
        ({"answer": "solution"}, {"question": "p", "answer": "A", "solution": "s"}, ("p", "s", 0)),
        ({"question": "extra_info.q", "answer": "extra_info.a"}, verl(extra_info={"q": "p", "a": "s"}), ("p", "s", 0)),
        ({"images": "figure"}, {"question": "p", "answer": "s", "figure": "a.png"}, ("p", "s", 1)),
        ({"rubrics": None}, {"question": "p", "answer": "s", "rubrics": ["r"]}, ("p", "s", 0)),
    ],
    ids=str,
)
def test_columns_may_be_named_or_left_out(tmp_path, columns, row, expected):
    task = read(tmp_path, row, columns=columns)
    assert (task.question, task.answer, len(task.images)) == expected


@pytest.mark.parametrize("columns", [{"foo": "bar"}, "question", {"question": 3}, ["question"]], ids=str)
def test_a_name_that_means_nothing_is_refused(tmp_path, columns):
    with pytest.raises(DatasetError, match=r"^columns "):
        read(tmp_path, {"question": "Q", "answer": "A"}, columns=columns)


def test_columns_that_are_not_read_are_listed_once(tmp_path, caplog):
    rows = [{"question": f"Q{n}", "answer": "A", "mood": 1, "id": n} | ({"origin": "x"} if n else {}) for n in range(5)]
    Dataset(written(tmp_path, *rows))
    assert [record.getMessage().split(" (")[0] for record in caplog.records] == [
        f"{tmp_path}/q.jsonl: columns that are not read: mood, origin"
    ]


def test_questions_with_equal_text_and_other_pictures_are_other_questions(tmp_path):
    for number in range(200):
        (tmp_path / f"{number}.png").write_bytes(png(size=(8 + number, 8)))
    rows = [{"question": "How many?", "answer": "3", "image": f"{number % 200}.png"} for number in range(400)]
    path = written(tmp_path, *rows)
    drawn = {name: Dataset(path, name) for name in ("train", "validation", "test")}
    items = {name: {data.task(index).images[0].size for index in range(len(data))} for name, data in drawn.items()}
    assert sum(map(len, items.values())) == 200
    assert 130 < len(items["train"]) < 185
    assert min(len(items["validation"]), len(items["test"])) > 5


def test_the_split_of_a_question_that_nobody_else_asks_depends_on_its_text_alone(tmp_path):
    texts = [f"Q{number}" for number in range(60)]
    plain = Dataset(written(tmp_path, *({"question": text, "answer": "A"} for text in texts)), "test")
    (tmp_path / "more").mkdir()
    shown = Dataset(written(tmp_path / "more", *({"question": text, "answer": "A", "image": "a.png"} for text in texts)), "test")
    assert [plain.task(index).question for index in range(len(plain))] == [
        shown.task(index).question for index in range(len(shown))
    ]


def test_a_picture_that_breaks_after_the_check_fails_its_own_item_alone(tmp_path):
    data = Dataset(written(tmp_path, {"question": "Q", "answer": "A", "image": "a.png"}, {"question": "R", "answer": "B"}))
    (tmp_path / "a.png").write_bytes(png()[:40])
    with pytest.raises(ItemError, match=r"row 1: the image .*a\.png cannot be opened"):
        data.task(0)
    assert data.task(1).question == "R"


def test_a_row_that_was_checked_is_asked_in_a_new_process_whatever_has_broken_since(tmp_path):
    rows = [{"question": "Q", "answer": "A", "image": "a.png"}, {"question": "R", "answer": "B", "image": "b.png"}]
    path = written(tmp_path, *rows)
    assert list(row_numbers(*resolve(str(path)))) == [1, 2]
    (tmp_path / "a.png").write_bytes(png()[:40])
    with pytest.raises(DatasetError, match="row 1"):
        Dataset(path)
    broken, sound = (gymnasium.make("toolwise/Dataset-v0", path=str(path), number=number) for number in (1, 2))
    assert sound.reset(seed=0)[0]["text"] == "R"
    with pytest.raises(ItemError, match=r"row 1: the image .*a\.png cannot be opened"):
        broken.reset(seed=0)
    assert row_numbers("toolwise/Dataset-v0", {"path": str(path), "number": 2}) is None


def test_rows_are_named_by_their_numbers_whatever_is_left_out(tmp_path):
    path = tmp_path / "q.tsv"
    image = base64.b64encode(png()).decode()
    lines = ["index\timage\tquestion\tanswer", f"7\t{image}\tQ1\tA", "8\t7\t\tA", "9\t7\tQ3\tA", "10\t7\tQ4\tA"]
    path.write_text("\n".join(lines) + "\n")
    options = {"path": str(path), "malformed": "skip"}
    assert list(row_numbers("toolwise/Dataset-v0", options)) == [1, 3, 4]
    known = Dataset(path, malformed="skip", checked=True)
    assert [known.row(number).question for number in (1, 3, 4)] == ["Q1", "Q3", "Q4"]
    assert [known.row(number).images[0].size for number in (1, 3, 4)] == [(40, 30)] * 3
    assert Dataset(path, malformed="skip").task(1).question == "Q3"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_cut_off_picture_is_found_before_anything_runs(tmp_path, kind):
    content = png(size=(300, 200), kind=kind)
    (tmp_path / "cut").write_bytes(content[: len(content) * 2 // 3])
    path = written(tmp_path, {"question": "Q", "answer": "A", "image": "cut"}, {"question": "R", "answer": "B"})
    assert Dataset(path, malformed="skip").skipped == 1
    with pytest.raises(DatasetError, match="row 1: the image"):
        Dataset(path)


@pytest.mark.parametrize(
    ("column", "complaint"),
    [
        (pa.array([1], pa.timestamp("ns")), None),
        (pa.array([10**7], pa.date32()), None),
        (pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int32())), None),
        (
            pa.Array.from_buffers(pa.string(), 1, [None, pa.array([0, 1], pa.int32()).buffers()[1], pa.py_buffer(b"\xff")]),
            "column x cannot be read",
        ),
    ],
    ids=["nanoseconds", "year 29349", "map", "not UTF-8"],
)
def test_a_column_that_python_cannot_hold_is_text_or_named(tmp_path, column, complaint):
    pq.write_table(pa.table({"question": ["Q"], "answer": ["A"], "x": column}), tmp_path / "q.parquet")
    if complaint is None:
        assert Dataset(tmp_path / "q.parquet").task(0).answer == "A"
        return
    with pytest.raises(DatasetError, match=complaint):
        Dataset(tmp_path / "q.parquet")


@pytest.mark.parametrize("name", ["q.tsv", "q.parquet"])
def test_two_columns_of_one_name_are_refused(tmp_path, name):
    if name == "q.tsv":
        (tmp_path / name).write_text("question\tanswer\tanswer\nQ\tA\tB\n")
    else:
        pq.write_table(pa.Table.from_arrays([pa.array(["Q"])] * 3, names=["question", "answer", "answer"]), tmp_path / name)
    with pytest.raises(DatasetError, match="two columns answer"):
        Dataset(tmp_path / name)


WORDS = ["", "nan", "A", "a.png", "<image>", "{", "[1", "['a']", "\\boxed{"]
KEYS = ["role", "content", "from", "value", "type", "text", "image", "ground_truth", "A"]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 99) | st.floats() | st.sampled_from(WORDS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=3),
    max_leaves=6,
)
NAMES = [
    *("question", "prompt", "messages", "answer", "answers", "reward_model", "images", "image_1", "options", "choices", "scoring"),
    *("system", "tools", "hint", "unit", "precision", "answer_type", "extra_info", "data_source", "completion", "solution"),
    *("figure", "num_turns"),
]


@settings(deadline=None, max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(row=st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=6))
def test_whatever_a_row_holds_it_is_read_or_refused(tmp_path, row):
    from envs.datasets.formats import question

    try:
        question({"question": "Q", "answer": "A"} | row, tmp_path)
    except RowError as error:
        assert str(error)
