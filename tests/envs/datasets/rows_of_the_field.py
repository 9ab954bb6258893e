"""Rows in the forms of the field and how they are read; written as files, the pictures `a.png` and `b.png` lie beside them."""

import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from envs.datasets import Dataset


def png(colour="red", size=(40, 30), kind="PNG", **options):
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, kind, **options)
    return buffer.getvalue()


def struct(colour="red"):
    """An image as Hugging Face's `datasets` keeps it in parquet."""
    return {"bytes": png(colour), "path": None}


def verl(**more):
    return {
        "data_source": "nq",
        "prompt": [{"role": "user", "content": "Who?"}],
        "ability": "fact",
        "reward_model": {"style": "rule", "ground_truth": "x"},
        "extra_info": {"index": 0, "split": "train"},
    } | more


def said(*texts):
    """ShareGPT's conversation of these texts."""
    return [{"from": "gpt" if place % 2 else "human", "value": text} for place, text in enumerate(texts)]


def chat(*texts):
    """OpenAI's conversation of these texts."""
    return [{"role": "assistant" if place % 2 else "user", "content": text} for place, text in enumerate(texts)]


def user(*parts):
    """A message of the user in parts."""
    return {"role": "user", "content": list(parts)}


REPLY = {"role": "assistant", "content": "a"}


def written(folder, *rows):
    """A file of the rows: JSON lines, or parquet if they hold bytes."""
    for name, colour in (("a.png", "red"), ("b.png", "blue")):
        (folder / name).write_bytes(png(colour))
    if "bytes" in repr(rows):
        path = folder / "q.parquet"
        pq.write_table(pa.Table.from_pylist(list(rows)), path)
        return path
    path = folder / "q.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(folder, row, **options):
    return Dataset(written(folder, row), **options).task(0)


THREE = {"options": ["x", "y", "z"]}
TEN = [{"answer": "yes" if number < 8 else "no", "answer_id": number} for number in range(10)]

# (row, question, answer, rule, further right answers, number of images)
READ = {
    "EasyR1": ({"problem": "<image>How many?", "answer": "42", "images": ["a.png"]}, "How many?", "42", "exact", (), 1),
    "GSM8K": ({"question": "Q", "answer": "6*7=42\n#### 42"}, "Q", "42", "math", (), 0),
    "MATH": ({"problem": "Q", "solution": "So \\boxed{\\frac{1}{2}}.", "level": "5"}, "Q", "\\frac{1}{2}", "math", (), 0),
    "MATH-500": ({"problem": "Q", "solution": "So \\boxed{3}.", "answer": "3"}, "Q", "3", "exact", (), 0),
    "R1-V": ({"image": "a.png", "problem": "Q", "solution": "<answer> 3 </answer>"}, "Q", "3", "exact", (), 1),
    "TRL": ({"prompt": chat("Who?"), "answer": "Bob"}, "Who?", "Bob", "exact", (), 0),
    "TRL completion": (
        {"prompt": chat("Who?"), "completion": [{"role": "assistant", "content": "Bob"}]},
        "Who?",
        "Bob",
        "exact",
        (),
        0,
    ),
    "TRL texts": ({"prompt": "Who?", "completion": " Bob"}, "Who?", "Bob", "exact", (), 0),
    "thoughts": ({"question": "Q", "answer": "<think>a <answer>7</answer></think>\n42"}, "Q", "42", "exact", (), 0),
    "LLaVA": ({"image": "a.png", "conversations": said("What?\n<image>", "bus")}, "What?", "bus", "exact", (), 1),
    "Alpaca": ({"instruction": "Say", "input": "hi", "output": "hello"}, "Say\nhi", "hello", "exact", (), 0),
    "verl": (verl(), "Who?", "x", "exact", (), 0),
    "verl, text": (verl(prompt="Who?", reward_model='{"ground_truth": "5"}'), "Who?", "5", "exact", (), 0),
    "verl, JSON text": (verl(prompt=json.dumps(chat("Who?"))), "Who?", "x", "exact", (), 0),
    "verl, Python text": (verl(reward_model="{'style': 'rule', 'ground_truth': '5'}"), "Who?", "5", "exact", (), 0),
    "verl, several": (verl(reward_model={"ground_truth": ["x", "y"]}), "Who?", "x", "exact", ("y",), 0),
    "verl, number": (verl(reward_model={"ground_truth": 4.0}), "Who?", "4", "number", (), 0),
    "verl, judge": (verl(reward_model={"style": "model", "ground_truth": "x"}), "Who?", "x", "judge", (), 0),
    "Qwen-VL": ({"conversations": said("Picture 1: <img>a.png</img>\nQ", "a")}, "Picture 1: [image 1]\nQ", "a", "exact", (), 1),
    "Markdown": ({"question": "See ![](a.png) here", "answer": "a"}, "See [image 1] here", "a", "exact", (), 1),
    "DAPO": (verl(reward_model={"style": "rule-lighteval/MATH_v2", "ground_truth": "34"}), "Who?", "34", "math", (), 0),
    "end token": ({"prompt": "Q", "completion": " Bob<|im_end|>"}, "Q", "Bob", "exact", (), 0),
    "verl, judge of options": (
        verl(prompt=chat("Q\nA. x\nB. y"), reward_model={"style": "model", "ground_truth": "B"}),
        *("Q\nA. x\nB. y", "B", "judge", (), 0),
    ),
    "verl, geo3k": (verl(data_source="hiyouga/geometry3k"), "Who?", "x", "math", (), 0),
    "verl, LaTeX": (verl(reward_model={"ground_truth": "3\\sqrt2"}), "Who?", "3\\sqrt2", "math", (), 0),
    "verl, scoring": (verl(scoring={"kind": "math"}), "Who?", "x", "math", (), 0),
    "verl, one image": (verl(images={"image": "a.png"}), "Who?", "x", "exact", (), 1),
    "verl, image part": (
        verl(prompt=[user({"type": "image", "image": "a.png"}, {"type": "text", "text": "Who?"})]),
        *("Who?", "x", "exact", (), 1),
    ),
    "verl, NaN": (verl(images=float("nan")), "Who?", "x", "exact", (), 0),
    "Search-R1": (
        {
            **verl(prompt=chat("Answer. Question: who?"), reward_model={"style": "rule", "ground_truth": {"target": ["A", "B"]}}),
            "question": "who?",
            "golden_answers": ["A", "B"],
        },
        *("Answer. Question: who?", "A", "exact", ("B",), 0),
    ),
    "MMMU": (
        {
            "question": "<image 1> like <image 2>?",
            "options": "['x', 'y']",
            "image_1": struct(),
            "image_2": struct("blue"),
            "answer": "B",
        },
        *("[image 1] like [image 2]?\nA. x\nB. y", "B", "choice", (), 2),
    ),
    "MMMU, open": (
        {"question": "<image 1> How many?", "options": "[]", "image_1": struct(), "answer": "['3', 'three']"},
        *("How many?", "3", "exact", ("three",), 1),
    ),
    "ScienceQA": (
        {"question": "Q", "choices": ["1", "0", "z"], "answer": 1, "hint": "Look.", "lecture": "L", "solution": "S", "image": None},
        *("Look.\nQ\nA. 1\nB. 0\nC. z", "B", "choice", (), 0),
    ),
    "DocVQA": ({"question": "Q", "image": struct(), "answers": ["a b", "ab"]}, "Q", "a b", "exact", ("ab",), 1),
    "VQAv2": ({"question": "Q", "multiple_choice_answer": "yes", "answers": TEN}, "Q", "yes", "exact", (), 0),
    "TextVQA": ({"question": "Q", "answers": ["a"] * 5 + ["b"] * 3 + ["c"] * 2}, "Q", "a", "exact", ("b",), 0),
    "MathVista": (
        {
            **{
                "question": "area?",
                "query": "Hint: …\nQuestion: area? (Unit: m)",
                "image": "images/1.jpg",
                "decoded_image": struct(),
            },
            **{
                "choices": None,
                "unit": "m",
                "precision": 1.0,
                "answer": "1.2",
                "answer_type": "float",
                "question_type": "free_form",
            },
        },
        *("Hint: …\nQuestion: area? (Unit: m)", "1.2", "number", (), 1),
    ),
    "MMBench": (
        {"question": "Q", "A": "x", "B": "Two", "C": "nan", "hint": "nan", "answer": "two", "category": "c"},
        *("Q\nA. x\nB. Two", "B", "choice", (), 0),
    ),
    "ARC": (
        {"question": "Q", "choices": {"text": ["x", "y"], "label": ["A", "B"]}, "answerKey": "B"},
        "Q\nA. x\nB. y",
        "B",
        "choice",
        (),
        0,
    ),
    "ARC, labels": (
        {"question": "Q", "choices": {"text": ["x", "y", "2"], "label": ["1", "2", "3"]}, "answerKey": "2"},
        *("Q\nA. x\nB. y\nC. 2", "B", "choice", (), 0),
    ),
    "numbered options": ({"question": "Q", "option1": "x", "option2": "y", "answer": "2"}, "Q\nA. x\nB. y", "B", "choice", (), 0),
    "MMStar": (
        {"question": "Q\nOptions: A: red, B: sky blue, C: 3", "answer": "B"},
        *("Q\nOptions: A: red, B: sky blue, C: 3", "B", "choice", (), 0),
    ),
    "MMSearch-R1": (
        verl(reward_model={"style": "rule", "ground_truth": "x", "candidate_answers": '["x", "y"]'}),
        *("Who?", "x", "exact", ("y",), 0),
    ),
    "PopQA": ({"question": "Q", "possible_answers": '["x", "y"]'}, "Q", "x", "exact", ("y",), 0),
    "a box without braces": ({"problem": "Q", "solution": "So $\\boxed 5$."}, "Q", "5", "math", (), 0),
    "a framed answer": ({"problem": "Q", "solution": "So $\\fbox{5}$."}, "Q", "5", "math", (), 0),
    "TriviaQA": ({"question": "Q", "answer": {"value": "A", "aliases": ["A", "AA"]}}, "Q", "A", "exact", ("AA",), 0),
    "SQuAD": (
        {"context": "C", "question": "Q", "answers": {"text": ["x", "x"], "answer_start": [1, 1]}},
        "C\nQ",
        "x",
        "exact",
        (),
        0,
    ),
    "options in lines": ({"question": "Q\n(A) x\n(B) y", "answer": "B"}, "Q\n(A) x\n(B) y", "B", "choice", (), 0),
    "an option's text": ({"question": "Q\nA. x\nB. y", "answer": "y"}, "Q\nA. x\nB. y", "B", "choice", (), 0),
    "options twice": (
        {"question": "Q\nA. x\nB. y", "options": ["A. x", "B. y"], "answer": "B"},
        "Q\nA. x\nB. y",
        "B",
        "choice",
        (),
        0,
    ),
    "scoring in a chat": ({"messages": chat("Q", "a"), "scoring": {"kind": "judge"}}, "Q", "a", "judge", (), 0),
    "scoring by name": ({"question": "Q", "answer": "a", "scoring": "list"}, "Q", "a", "list", (), 0),
    "scoring as text": ({"question": "Q", "answer": "a", "scoring": '{"kind": "date"}'}, "Q", "a", "date", (), 0),
    "bool": ({"question": "Q", "answer": True}, "Q", "True", "exact", ("yes",), 0),
    "zero": ({"question": "Q", "answer": 0}, "Q", "0", "number", (), 0),
    "money": ({"question": "Q", "answer": "$5"}, "Q", "$5", "exact", (), 0),
    "interval": ({"question": "Q", "answer": "[1, 2]"}, "Q", "[1, 2]", "exact", (), 0),
    "capitals": ({"Question": "Q", "Answer": "A"}, "Q", "A", "exact", (), 0),
    "images amid text": (
        verl(prompt=chat("Is <image> like <image>?"), images=["a.png", "b.png"]),
        *("Is [image 1] like [image 2]?", "x", "exact", (), 2),
    ),
    "parts without images": (
        {
            "messages": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Q"}]}, REPLY],
            "images": ["a.png"],
        },
        *("Q", "a", "exact", (), 1),
    ),
    "a tool's turns": (
        {
            "messages": [
                *chat("<image>Q"),
                {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "search", "arguments": "{}"}}]},
                {"role": "tool", "content": "<image> found"},
                REPLY,
            ],
            "images": ["a.png", "b.png"],
        },
        *("Q", "a", "exact", (), 1),
    ),
    "content as list": ({"messages": [user("Q"), REPLY]}, "Q", "a", "exact", (), 0),
    "content as mapping": (
        {"messages": [{"role": "user", "content": {"text": "Q"}}, REPLY]},
        "Q",
        "a",
        "exact",
        (),
        0,
    ),
}

REFUSED = {
    "several questions": ({"conversations": said("<image>Q", "a", "R", "b"), "image": "a.png"}, "asks 2 questions"),
    "examples": (verl(prompt=chat("a", "b", "c")), "asks 2 questions"),
    "history": ({"instruction": "Q", "output": "A", "history": [["a", "b"]]}, "history looks like more turns"),
    "turns": ({"prompt": "Q", "golden_answer": "A", "num_turns": 3}, "3 turns"),
    "video": ({"question": "Q", "answer": "A", "videos": ["a.mp4"]}, "videos looks like video"),
    "a video's place": ({"question": "<video>Q", "answer": "A"}, "the question shows <video>"),
    "a template": ({"prompt": "<|im_start|>user\nQ<|im_end|>", "answer": "A"}, "written in a chat template"),
    "audio part": (
        {"messages": [user({"type": "audio"}), REPLY]},
        "a part of the type 'audio'",
    ),
    "rubrics": ({"question": "Q", "answer": "A", "rubrics": ["r"]}, "rubrics looks like a scorer"),
    "distractors": ({"question": "Q", "correct_answer": "A", "distractor1": "b"}, "distractor1 looks like options"),
    "GPQA": ({"Question": "Q", "Correct Answer": "c", "Incorrect Answer 1": "x"}, "Incorrect Answer 1 looks like options"),
    "SWAG": ({"question": "Q", "ending0": "x", "ending1": "y", "answer": "x"}, "ending0 looks like options"),
    "RACE": ({"article": "A.", "question": "Q", "options": ["x", "y"], "answer": "A"}, "article looks like a part of the question"),
    "a table": ({"table": "a|b", "question": "Q", "answer": "A"}, "columns={hint: table}"),
    "MuSiQue": ({"question": "Q", "answer": "A", "paragraphs": [{"title": "t"}]}, "paragraphs looks like a part of the question"),
    "MMSearch": ({"query": "Q", "answer": "A", "alternative_gt_answers": ["B"]}, "columns={accepted: alternative_gt_answers}"),
    "LiveVQA": ({"question": "Q", "answer": "A", "Ground_Truth_List": ["B"]}, "Ground_Truth_List looks like several right answers"),
    "GQA": ({"question": "Q", "answer": "A", "imageId": "n161313"}, "imageId looks like the name of a picture"),
    "AI2D": ({"question": "Q", "answer": "1", **THREE}, "'1' is none of the options A, B, C: write its letter"),
    "MM-Vet": ({"question": "Q", "answer": "a<AND>b"}, "joined by <AND>"),
    "MM-Vet, or": ({"question": "Q", "answer": "a<OR>b"}, "joined by <OR>"),
    "label or position": (
        {"question": "Q", "choices": {"text": ["x", "y"], "label": ["1", "2"]}, "answer": 1},
        "an option's label or its position",
    ),
    "a picture": ({"question": "Q", "answer": "A", "figure": struct()}, "figure looks like pictures"),
    "a path": ({"question": "Q", "answer": "A", "figure": "a.png"}, "figure looks like pictures"),
    "no picture": (verl(prompt=chat("<image>How many?")), "1 placeholders <image>, and there are 0 images"),
    "no placeholder": (verl(prompt=chat("<image>Q"), images=["a.png", "b.png"]), "and there are 2 images"),
    "no third": ({"question": "<image 3>?", "answer": "A", "image_1": "a.png"}, "<image 3>, and there are 1 images"),
    "other pictures": (
        {"question": "Q", "answer": "A", "image": "a.png", "image_1": "b.png"},
        "other pictures in image than in image_1",
    ),
    "two texts": ({"question": "Q one", "prompt": "other", "answer": "A"}, "prompt asks something other"),
    "two truths": ({"question": "Q", "answer": "A", "ground_truth": "B"}, "answer and ground_truth differ"),
    "a style": (verl(reward_model={"style": "own", "ground_truth": "x"}), "reward_model.style is 'own'"),
    "a rule": ({"question": "Q", "answer": "A", "scoring": "smell"}, "the scoring cannot be used"),
    "a mapping": ({"question": "Q", "answer": {"foo": 1}}, "answer has foo"),
    "lists": ({"question": "Q", "answer": [["a"], ["b"]]}, "a list of lists"),
    "NaN": ({"question": "Q", "answer": float("nan")}, "there is no answer"),
    "pandas' nan": ({"question": "Q", "answer": "nan"}, "there is no answer"),
    "open thoughts": ({"question": "Q", "answer": "<think>so"}, "thoughts without an end"),
    "a long truth": ({"question": "Q", "answer": "x" * 300}, "300 characters"),
    "no option": ({"question": "Q", "answer": "D", **THREE}, "'D' is none of the options A, B, C"),
    "position or text": ({"question": "Q", "answer": 1, "options": ["1", "2"]}, "may be an option or its position"),
    "a letter or a text": ({"question": "Q", "answer": "A", "options": ["C", "A"]}, "one option's letter and another's text"),
    "equal options": ({"question": "Q", "answer": "x", "options": ["x", "x"]}, "text of several options"),
    "one option": ({"question": "Q", "A": "x", "answer": "A"}, "only the column A"),
    "options as number": ({"question": "Q", "options": 3, "answer": "A"}, "write a list of texts"),
    "a role": ({"messages": [{"role": "alien", "content": "x"}, REPLY]}, "the role 'alien'"),
    "a late system": (
        {"messages": [*chat("Q"), {"role": "system", "content": "S"}, REPLY]},
        "system message comes after",
    ),
    "context": ({"question": "Q", "answer": "A", "context": {"title": ["t"]}}, "context is no text"),
}
