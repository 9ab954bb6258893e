"""Published benchmarks whose rows say things that a mapping of columns cannot: each form is a function from a row to one that
`envs.datasets.formats` reads, or to None for a row that is left out.

The names of columns are those of the files that the benchmarks publish; docs/benchmarks.md names the files.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from envs.datasets.choices import Options
from envs.datasets.columns import absent, number, parsed, text
from envs.datasets.pictures import listed
from envs.errors import DatasetError, RowError
from envs.scoring.types import Kind

Row = Mapping[str, Any]
Form = Callable[[Row], dict[str, Any] | None]
_FIRST_OPTION = re.compile(r"^\(?A[).:] ", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Reading:
    """How the rows of a file are read beyond what they say themselves; "" for as they are.

    `form` is a name in `FORMS`. `prompt` is what is asked, with the question of the row for `{question}` and its options for
    `{options}`; without the latter, they end the question. `scoring` is the kind by which rows are scored that do not say. Raises
    DatasetError for a form or a kind that does not exist, or a prompt without `{question}`.
    """

    form: str = ""
    prompt: str = ""
    scoring: str = ""

    def __post_init__(self) -> None:
        if self.form and self.form not in FORMS:
            close = difflib.get_close_matches(self.form, FORMS, 1, 0)
            raise DatasetError(f"there is no form {self.form!r}: did you mean {close[0]}? The forms are {', '.join(FORMS)}")
        if self.prompt and "{question}" not in self.prompt:
            raise DatasetError(f"prompt={self.prompt!r} has no place for the question: write {{question}} in it")
        if self.scoring and self.scoring not in {kind.value for kind in Kind}:
            raise DatasetError(f"scoring={self.scoring}: write one of {', '.join(Kind)}")

    def row(self, row: Row) -> dict[str, Any] | None:
        """The row as it is read; None if it is left out. Raises RowError if it is not of the form."""
        read = FORMS[self.form](row) if self.form else dict(row)
        if read is not None and self.scoring and "scoring" not in read:
            read["scoring"] = self.scoring
        return read

    def asked(self, question: str, options: Options = ()) -> str:
        """The text that is asked for a question whose text ends with its `options`, if it has any."""
        if not self.prompt:
            return question
        parts = {"question": question, "options": "\n".join(f"{letter}. {option}" for letter, option in options)}
        if "{options}" in self.prompt and (begins := [match.start() for match in _FIRST_OPTION.finditer(question)]):
            parts["question"] = question[: begins[-1]].rstrip()
        return re.sub(r"\{(question|options)\}", lambda match: parts[match[1]], self.prompt)


PLAIN = Reading()


def _of(row: Row, **names: str) -> dict[str, Any]:
    """The columns `names`, ours to theirs, of those that the row has."""
    return {ours: row[theirs] for ours, theirs in names.items() if not absent(row.get(theirs))}


def _without(row: Row, *names: str) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in names}


def vstar(row: Row) -> dict[str, Any]:
    """V*: VLMEvalKit's table, or `test_questions.jsonl`, whose text ends with an instruction of its own."""
    if "text" not in row:
        return dict(row)
    asked = re.sub(r"\s*Answer with the option's letter[^\n]*\Z", "", text(row["text"]))
    return {"question": asked, **_of(row, answer="label", image="image", category="category")}


def mathvista(row: Row) -> dict[str, Any]:
    """MathVista testmini: the table's `answer_option` repeats the answer, and its `context` is a kind of picture."""
    return _without(row, "answer_option", "context", "skills")


def mathverse(row: Row) -> dict[str, Any]:
    """MathVerse testmini: the question without the instructions that other columns put before it; a version that has its question
    in the picture alone is asked with `query_wo`."""
    read = _without(row, "question_for_eval", "query_wo", "query_cot", "problem_version")
    if absent(row.get("question")):
        read["question"] = row.get("query_wo")
    return read | _of(row, category="problem_version")


def charxiv(row: Row) -> dict[str, Any]:
    """CharXiv's reasoning questions: VLMEvalKit's table, or the authors' parquet, which has the descriptive ones as well."""
    if "reasoning_q" in row:
        return _of(row, question="reasoning_q", answer="reasoning_a", image="image", category="category")
    return _of(row, question="question", answer="answer", image="image", category="category")


def mmsearch(row: Row) -> dict[str, Any]:
    """MMSearch end2end: the picture that a search found is no part of the question."""
    return _of(row, question="query", image="query_image", answer="gt_answer", accepted="alternative_gt_answers", category="area")


def mi_mmsearch(row: Row) -> dict[str, Any]:
    """MI-MMSearch and MMSearch-Plus: pictures in `image`, `img_1`, `img_2`, …, as many as `num_images` says."""
    names = [name for name in row if re.fullmatch(r"image|img_?\d+", name) and not absent(row[name])]
    numbered = sorted(names, key=lambda name: int("".join(filter(str.isdigit, name)) or 0))
    pictures = [picture for name in numbered for picture in listed(row[name])]
    expected = number(row.get("num_images"))
    if expected is not None and expected != len(pictures):
        raise RowError(f"num_images is {text(row['num_images'])}, and the row has {len(pictures)} pictures")
    read = _of(row, question="question", answer="answer", category="category")
    return read | ({"images": pictures} if pictures else {})


def realx(row: Row) -> dict[str, Any]:
    """RealX-Bench: several right answers are joined by "or", and the flag of reasoning is called `reason`."""
    answer = text(row.get("answer"))
    several = [part for part in re.split(r"\s+or\s+", answer) if part]
    flags = _of(row, perception="perception", search="search", reasoning="reason")
    return {**_of(row, question="query", image="image"), **flags, "answer": answer, "accepted": several}


_TIR_CORRECTED = {"60.jpg": "mobi", "62.jpg": "aires"}
"""Answers of TIR-Bench's task ocr that `calculate_score.py` puts in place of the file's, by the name of the picture."""


def tir(row: Row) -> dict[str, Any]:
    """TIR-Bench: what an answer is compared as depends on the task and on the answer's own form (`calculate_score.py`)."""
    task, answer = text(row.get("task") or row.get("category")), text(row.get("answer"))
    read = {"question": row.get("prompt"), "answer": answer, "ability": task}
    read |= {name: value for name, value in row.items() if re.fullmatch(r"image(?:_\d+)?", name) and not absent(value)}
    if task == "ocr" and (corrected := _TIR_CORRECTED.get(str(row.get("image_1")).rpartition("/")[2])):
        return read | {"answer": corrected}
    if number(answer) is not None:
        return read | {"scoring": {"kind": "number"}}
    if len(re.findall(r"\d+", answer)) > 1 and not re.search(r"[A-Za-z]", answer):
        return read | {
            "answer": ", ".join(re.findall(r"\d+", answer)),
            "scoring": {"kind": "list", "item": "number", "ordered": task != "spot_difference"},
        }
    return read


def visualtoolbench(row: Row) -> dict[str, Any] | None:
    """VisualToolBench: one question, its pictures in order, and its rubrics with their weights. Rows of several turns are left
    out."""
    prompts = parsed(row.get("turn_prompts"))
    if (number(row.get("num_turns")) or 1) > 1 or (isinstance(prompts, list) and len(prompts) > 1):
        return None
    turns = {"question": "turn_prompts", "answer": "turn_golden_answers", "images": "images_by_turn", "rubrics": "rubrics_by_turn"}
    flat = {"question": "prompt", "answer": "golden_answer", "images": "images", "rubrics": "rubrics"}
    read = {ours: _first(row.get(theirs)) for ours, theirs in turns.items() if not absent(row.get(theirs))}
    read = {ours: value for ours, value in read.items() if not absent(value)}
    read = _of(row, ability="prompt_category", **flat) | read
    return _without(read, "rubrics") | {"scoring": {"kind": "rubric", "rubrics": _rubrics(read.get("rubrics"))}}


def _first(turns: Any) -> Any:
    """What belongs to the first turn."""
    turns = parsed(turns)
    return turns[0] if isinstance(turns, list | tuple) else turns


def _rubrics(given: Any) -> list[tuple[str, float]]:
    """`{id: {"description": …, "weight": …}}`, or a list of such, also as JSON text."""
    given = parsed(given)
    entries = list(given.values()) if isinstance(given, Mapping) else given
    pairs = []
    for entry in entries if isinstance(entries, list | tuple) else []:
        entry = parsed(entry)
        criterion = text(entry.get("description") or entry.get("criterion")) if isinstance(entry, Mapping) else ""
        weight = number(entry.get("weight")) if isinstance(entry, Mapping) else None
        if not criterion or weight is None:
            raise RowError(f"a rubric is {json.dumps(entry)[:80]}: write a description and a weight")
        pairs.append((criterion, weight))
    if not pairs:
        raise RowError('there are no rubrics: write {"1": {"description": "…", "weight": 5}}')
    return pairs


FORMS: dict[str, Form] = {
    form.__name__: form for form in (vstar, mathvista, mathverse, charxiv, mmsearch, mi_mmsearch, realx, tir, visualtoolbench)
}
