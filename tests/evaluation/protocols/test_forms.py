"""Each benchmark's published form is read: tiny files of the same columns, made here, in which the right answer scores 1 and a
wrong one 0; several pictures keep their order; a rubric goes to the judge, one criterion at a time."""

import base64
import csv
import io
import json
import re

import gymnasium
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from configs import compose
from envs import questions_of
from envs.datasets.published import tir
from envs.errors import DatasetError
from evaluation.protocols import benchmark, freeze, names
from evaluation.settings import EvaluateConfig
from rollout.collect import tasks_of

COLOURS = {"red": (255, 0, 0), "green": (0, 128, 0), "blue": (0, 0, 255)}


def png(colour="red"):
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30), COLOURS[colour]).save(buffer, "PNG")
    return buffer.getvalue()


def coded(colour="red"):
    return base64.b64encode(png(colour)).decode()


def embedded(colour="red"):
    """As Hugging Face's parquet holds a picture."""
    return {"bytes": png(colour), "path": f"{colour}.png"}


def lines(folder, *rows):
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "data.jsonl"


def table(folder, *rows):
    """As pandas writes it, which is how VLMEvalKit's files are made."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with (folder / "data.tsv").open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return folder / "data.tsv"


def parquet(folder, *rows):
    pq.write_table(pa.Table.from_pylist(list(rows)), folder / "data.parquet")
    return folder / "data.parquet"


OPTIONS = {"A": "rubber", "B": "cotton", "C": "kevlar", "D": "leather"}
GLOVE = "What is the material of the glove?"
MATHVISTA = {
    **{
        "pid": "1",
        "image": "images/1.jpg",
        "unit": None,
        "metadata": {"category": "general-vqa", "context": "table", "skills": ["x"]},
    },
}
HINT = "Hint: Please answer the question and provide the final answer at the end."
RUBRICS = {
    "1": {"description": "names the colour blue", "weight": 5, "critical": "yes"},
    "2": {"description": "names the number seven", "weight": 3},
}
TURN = {"id": "a", "num_turns": 1, "prompt_category": "stem", "eval_focus": "tool_use"}


def visualtoolbench(folder):
    """The newest form by turns, the earlier flat one, and a conversation, which is left out."""
    by_turns = TURN | {
        **{"turn_prompts": ["What do the pictures show?"], "turn_golden_answers": ["blue, seven"]},
        **{"images_by_turn": [[embedded("green"), embedded("blue")]], "rubrics_by_turn": [json.dumps(RUBRICS)]},
    }
    two = TURN | {"num_turns": 2, "turn_prompts": ["a", "b"], "turn_golden_answers": ["c", "d"], "images_by_turn": [[], []]}
    return parquet(folder, by_turns, two | {"rubrics_by_turn": ["{}", "{}"]})


FORMS = {
    "vstar as a table": (
        "vstar",
        lambda folder: table(
            folder, {"index": 0, "image": coded(), "question": GLOVE, **OPTIONS, "answer": "A", "category": "direct"}
        ),
        [("A", "B"), ("rubber", "cotton")],
    ),
    "vstar as lines": (
        "vstar",
        lambda folder: lines(
            (folder / "red.png").write_bytes(png()) and folder,
            {
                "text": f"{GLOVE}\n(A) rubber\n(B) cotton\n(C) kevlar\n(D) leather\nAnswer with the option's letter from the given "
                "choices directly.",
                **{"image": "red.png", "category": "direct_attributes", "label": "A", "question_id": 0},
            },
        ),
        [("A", "D"), ("(A) rubber", "leather")],
    ),
    "hrbench4k": (
        "hrbench4k",
        lambda folder: table(
            folder,
            {
                "index": 0,
                "question": GLOVE,
                **OPTIONS,
                "answer": "B",
                "category": "single",
                "cycle_category": "0",
                "image": coded(),
            },
        ),
        [("B", "A")],
    ),
    "hrbench8k as parquet": (
        "hrbench8k",
        lambda folder: parquet(
            folder,
            {
                "index": 0,
                "question": GLOVE,
                **OPTIONS,
                "answer": "B",
                "category": "single",
                "cycle_category": "0",
                "image": coded(),
            },
        ),
        [("B", "C")],
    ),
    "mathvista: a choice": (
        "mathvista",
        lambda folder: parquet(
            folder,
            MATHVISTA
            | {
                **{"question": "Which is larger?", "choices": ["the left", "the right"], "answer": "the right", "precision": None},
                **{"question_type": "multi_choice", "answer_type": "text", "decoded_image": embedded()},
                "query": f"{HINT}\nQuestion: Which is larger?\nChoices:\n(A) the left\n(B) the right",
            },
        ),
        [("B", "A"), ("the right", "the left")],
    ),
    "mathvista: a number": (
        "mathvista",
        lambda folder: parquet(
            folder,
            MATHVISTA
            | {
                **{"question": "How long?", "choices": None, "answer": "1.4", "precision": 1.0, "question_type": "free_form"},
                **{"answer_type": "float", "decoded_image": embedded(), "query": f"{HINT}\nQuestion: How long?"},
            },
        ),
        [("1.4", "1.6")],
    ),
    "mathvista as a table": (
        "mathvista",
        lambda folder: table(
            folder,
            {
                **{"index": 1, "question": f"{HINT}\nQuestion: Which?", "answer": "two", "answer_option": "B", "image": coded()},
                **{
                    "choices": "['one', 'two']",
                    "question_type": "multi_choice",
                    "answer_type": "text",
                    "task": "vqa",
                    "skills": "['x']",
                },
            },
        ),
        [("B", "A")],
    ),
    "mathverse": (
        "mathverse",
        lambda folder: parquet(
            folder,
            {
                **{
                    "sample_index": "1",
                    "problem_index": "1",
                    "problem_version": "Vision Only",
                    "question": "",
                    "image": embedded(),
                },
                **{
                    "answer": "C",
                    "question_type": "multi-choice",
                    "metadata": {"split": "testmini"},
                    "question_for_eval": "Find x.",
                },
                **{"query_wo": "Please directly answer the question in the picture.", "query_cot": "Please first reason."},
            },
        ),
        [("C", "D"), ("it is C", "it is D")],
    ),
    "charxiv": (
        "charxiv",
        lambda folder: parquet(
            folder,
            {
                **{
                    "image": embedded(),
                    "category": "cs",
                    "reasoning_q": "Which falls?",
                    "reasoning_a": "Joint-CNN",
                    "subplot_loc": None,
                },
                **{"descriptive_q1": 3, "descriptive_a1": "x", "original_figure_path": "a.pdf", "reasoning_q_source": 1},
            },
        ),
        [("Joint-CNN", "Ours"), ("the line of Joint-CNN", "the line of Ours")],
    ),
    "charxiv as a table": (
        "charxiv",
        lambda folder: table(
            folder,
            {
                "index": 1,
                "image": coded(),
                "question": "Which falls?",
                "answer": "Joint-CNN",
                "grading_query": "?",
                "inst_category": 1,
            },
        ),
        [("Joint-CNN", "Ours")],
    ),
    "mmsearch": (
        "mmsearch",
        lambda folder: parquet(
            folder,
            {
                **{
                    "sample_id": "1",
                    "query": "When was it released?",
                    "query_image": embedded("blue"),
                    "area": "news",
                    "subfield": "film",
                },
                **{"image_search_result": embedded("red"), "gt_requery": "release", "gt_answer": "17 January", "timestamp": "2024"},
                "alternative_gt_answers": ["Jan 17"],
            },
        ),
        [("17 January", "18 June"), ("Jan 17", "Jun 18")],
    ),
    "mmsearch_plus": (
        "mmsearch_plus",
        lambda folder: parquet(
            folder,
            {
                **{
                    "question": "Where is it?",
                    "answer": ["Berne", "Bern"],
                    "num_images": 2,
                    "category": "geo",
                    "difficulty": "hard",
                },
                **{"img_1": embedded("green"), "img_2": embedded("blue"), "img_3": None, "arxiv_id": None, "video_url": None},
            },
        ),
        [("Bern", "Basel")],
    ),
    "mi_mmsearch": (
        "mi_mmsearch",
        lambda folder: table(
            folder,
            {
                **{"index": 1, "question": "Who is in both?", "answer": "Ada Lovelace", "num_images": 3, "image": coded("red")},
                **{"img_2": coded("green"), "img_3": coded("blue"), "image_url": "https://example.org/1.png"},
            },
        ),
        [("Ada Lovelace", "Charles Babbage"), ("Countess Ada Lovelace", "Mary Shelley")],
    ),
    "realx": (
        "realx",
        lambda folder: parquet(
            folder,
            {"query": "Which year?", "answer": "1969 or July 1969", "perception": 1, "search": 1, "reason": 1, "image": embedded()},
        ),
        [("1969", "1970"), ("July 1969", "July 1970")],
    ),
    "tir: a choice": (
        "tir",
        lambda folder: lines(
            (folder / "red.png").write_bytes(png()) and folder,
            {"task": "maze", "prompt": "Which way?\nA. left\nB. right", "answer": "B", "image_1": "red.png", "question_id": 1},
        ),
        [("B", "A")],
    ),
    "tir: a number": (
        "tir",
        lambda folder: lines(
            (folder / "red.png").write_bytes(png()) and folder,
            {"task": "color", "prompt": "How many?", "answer": "12", "image_1": "red.png", "meta_data": {"difficulty": 1}},
        ),
        [("12", "13"), ("12.0", "1")],
    ),
    "tir: an order": (
        "tir",
        lambda folder: lines(
            (folder / "red.png").write_bytes(png()) and folder,
            {
                "task": "jigsaw",
                "prompt": "Which order?",
                "answer": "[2, 1, 4, 3]",
                "image_1": "red.png",
                "metadata": {"difficulty": 2},
            },
        ),
        [("2, 1, 4, 3", "1, 2, 3, 4")],
    ),
    "tir: a set": (
        "tir",
        lambda folder: lines(
            (folder / "red.png").write_bytes(png()) and folder,
            {"task": "spot_difference", "prompt": "Which?", "answer": "3, 5", "image_1": "red.png", "image_2": "red.png"},
        ),
        [("5, 3", "5, 4")],
    ),
    "visualtoolbench": ("visualtoolbench", visualtoolbench, [("blue, and seven of them", "seven of them")]),
    "visualtoolbench, flat": (
        "visualtoolbench",
        lambda folder: parquet(
            folder,
            TURN | {"prompt": "What?", "golden_answer": "blue", "images": [embedded("blue")], "rubrics": json.dumps(RUBRICS)},
        ),
        [("blue " * 200, "red " * 200)],
    ),
}


def opinion(request):
    """A judge that looks for the last word of the criterion, or of the reference, in the candidate's answer."""
    asked = request["messages"][1]["content"]
    expected = re.search(r"Criterion:\n(.*)", asked) or re.search(r"Reference answer:\n(.*)", asked)
    answer = re.search(r"Candidate's answer:\n(=+\w+=+)\n(.*?)\n\1", asked, re.DOTALL)[2]
    return json.dumps({"correct": expected[1].split()[-1] in answer})


def settings(bench, data, judge):
    """The settings of the command, without what the searches would need."""
    chosen = [f"tasks=bench:{bench}", f"data={data}"]
    if benchmark(bench).judge:
        chosen.append(f"+options.judge={{url: {judge}, model: {benchmark(bench).judge}}}")
    if "text_search" in benchmark(bench).tools:
        chosen.append("+options.tools=[code]")
    return freeze(compose("evaluate", EvaluateConfig, chosen), chosen)


def environment(bench, data, judge):
    env_id, options = tasks_of(settings(bench, data, judge))
    return gymnasium.make(env_id, **options, row=0).unwrapped


@pytest.mark.parametrize(("bench", "make", "answers"), FORMS.values(), ids=FORMS)
async def test_the_right_answer_scores_1_and_a_wrong_one_0(bench, make, answers, tmp_path, serve):
    env = environment(bench, make(tmp_path), serve(opinion).url)
    for right, wrong in answers:
        for answer, expected in ((right, 1.0), (wrong, 0.0)):
            await env.reset_async(seed=0)
            *_, info = await env.finish(answer)
            assert info["reward_parts"]["accuracy"] == expected, answer
    await env.close_async()


def test_every_benchmark_has_such_a_file():
    assert {bench for bench, _, _ in FORMS.values()} == set(names())


@pytest.mark.parametrize(
    ("form", "colours"),
    [
        ("mi_mmsearch", ["red", "green", "blue"]),
        ("mmsearch_plus", ["green", "blue"]),
        ("visualtoolbench", ["green", "blue"]),
        ("mmsearch", ["blue"]),
    ],
)
async def test_all_pictures_are_shown_in_order(form, colours, tmp_path):
    bench, make, _ = FORMS[form]
    observation, _ = await environment(bench, make(tmp_path), "http://127.0.0.1:1/v1").reset_async(seed=0)
    assert [tuple(map(int, image[0, 0])) for image in observation["images"]] == [COLOURS[colour] for colour in colours]


def test_a_row_with_fewer_pictures_than_it_says_is_refused(tmp_path):
    row = {"question": "Who?", "answer": "Ada", "num_images": 3, "image": coded(), "img_2": coded("blue")}
    with pytest.raises(DatasetError, match="num_images is 3, and the row has 2 pictures"):
        environment("mi_mmsearch", table(tmp_path, row), "http://127.0.0.1:1/v1")


async def test_a_rubric_is_asked_about_one_criterion_at_a_time_and_the_critical_ones_decide(tmp_path, serve):
    judge = serve(opinion)
    env = environment("visualtoolbench", visualtoolbench(tmp_path), judge.url)
    await env.reset_async(seed=0)
    *_, info = await env.finish("blue")
    asked = [request["messages"][1]["content"] for request in judge.requests]
    assert sorted(re.search(r"Criterion:\n(.*)", text)[1] for text in asked) == [
        rubric["description"] for rubric in RUBRICS.values()
    ]
    assert info["reward_parts"]["accuracy"] == 1.0  # "seven" has the weight 3: it is not critical
    assert info["reward_parts"]["rubric_score"] == 5 / 8
    await env.close_async()


def test_conversations_of_several_turns_are_left_out_and_counted(tmp_path):
    data = questions_of(*tasks_of(settings("visualtoolbench", visualtoolbench(tmp_path), "http://127.0.0.1:1/v1")))
    assert (len(data), data.left_out) == (1, 1)


async def test_the_prompt_is_the_benchmarks(tmp_path):
    bench, make, _ = FORMS["vstar as lines"]
    observation, _ = await environment(bench, make(tmp_path), "http://127.0.0.1:1/v1").reset_async(seed=0)
    options = "A. rubber\nB. cotton\nC. kevlar\nD. leather"
    asked = f"Question: {GLOVE}\nOptions:\n{options}\nPlease select the correct answer from the options above."
    assert observation["text"] == asked


def test_two_answers_of_tir_are_those_that_its_authors_correct():
    row = {"task": "ocr", "prompt": "Which brand?", "answer": "mobil", "image_1": "data/ocr/60.jpg"}
    assert tir(row)["answer"] == "mobi"
    assert tir(row | {"image_1": "data/ocr/160.jpg"})["answer"] == "mobil"


def test_a_picture_that_a_form_does_not_read_is_named(tmp_path):
    (tmp_path / "red.png").write_bytes(png())
    path = tmp_path / "mmsearch.jsonl"
    path.write_text(json.dumps({"query": "What is it?", "img": "red.png", "gt_answer": "x"}) + "\n")
    options = {"path": str(path), "form": "mmsearch", "scoring": "exact"}
    with pytest.raises(DatasetError, match=r"does not read the column img, .* write columns=\{images: img\}"):
        questions_of("toolwise/Dataset-v0", options)
    assert len(questions_of("toolwise/Dataset-v0", options | {"columns": {"images": "img"}}).task(0).images) == 1
    assert not questions_of("toolwise/Dataset-v0", options | {"columns": {"img": None}}).task(0).images
