"""The columns of a row: which are read, by which names, which only describe it, and which must not be overlooked."""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any

from envs.errors import DatasetError, RowError
from envs.pictures import looks_encoded

NAMES: dict[str, tuple[str, ...]] = {
    "question": ("question", "problem", "query", "instruction", "prompt"),
    "messages": ("messages", "conversations", "conversation"),
    "system": ("system", "system_prompt", "system_message"),
    "input": ("input",),
    "hint": ("hint", "context", "passage"),
    "answer": (
        *("answer", "ground_truth", "golden_answer", "gold_answer", "gold", "correct_answer", "multiple_choice_answer"),
        *("answerkey", "answer_key", "correct_option", "correct_choice", "final_answer", "target"),
    ),
    "explanation": ("solution", "output", "completion", "response"),
    "accepted": (
        *("accepted", "accepted_answers", "answers", "golden_answers", "gold_answers", "ground_truths", "correct_answers"),
        *("acceptable_answers", "alternative_answers", "candidate_answers", "possible_answers", "answer_aliases", "aliases"),
    ),
    "options": ("options", "choices", "candidates"),
    "images": (
        *("images", "decoded_image", "image", "img", "picture", "pictures", "imgs", "image_bytes", "image_base64"),
        *("image_path", "image_paths", "img_path", "image_file", "image_files", "image_url", "image_urls"),
    ),
    "ability": ("ability", "category", "l2-category"),
    "source": ("source", "data_source"),
    "scoring": ("scoring",),
}
"""For each thing that a question has, the names of columns that hold it, the first of them first."""

SINGLE = (
    *("reward_model", "env_name", "extra_info", "needed_tools", "tools", "perception", "reasoning", "search"),
    *("question_type", "answer_type", "unit", "precision", "num_turns", "image_views"),
)
"""Columns with one name that are read."""

_DESCRIBES = re.compile(
    r"(?:l\d-)?(?:\w*_)?(?:index|idx|ids?|qid|uid|uuid|split|subset|num_\w+|\w+_id|\w+_type|type|level|grade|difficulty|topic|subject|task|"
    r"domain|field|skill|subfield|language|date|year|license|url|link|title|comment|lecture|rationale|explanation|caption|metadata|"
    r"agent_name|turncase|prompt_category|eval_focus|tool_trajectory|width|height|hash|md5|img_type)|metadata|image_(?:source|size)|"
    r"answer_idx|questionid|docid|pid|set_name|pass_rate(?:_\w+)?|tool_use|drop_(?:reason|detail)"
)
_SUSPECTS: tuple[tuple[re.Pattern[str], str, str | None], ...] = (
    (re.compile(r"(?:\w+_)?(?:videos?|audios?|speech|sound)(?:_(?:path|file|bytes))?s?"), "video or sound", None),
    (
        re.compile(r"(?:\w+_)?(?:options?|choices?|candidates?|distractors?|endings?|(?:incorrect|wrong)_answers?)(?:_?\w)?"),
        "options",
        "options",
    ),
    (re.compile(r"\w+_answers|\w+_answer_list|\w*(?:truth|answer)s?_list|\w*aliases"), "several right answers", "accepted"),
    (
        re.compile(r"(?:\w+_)?(?:articles?|stor(?:y|ies)|table|body|support|paragraphs?|passages|contexts|documents?|premise)"),
        "a part of the question",
        "hint",
    ),
    (
        re.compile(
            r"(?:\w+_)?(?:scorer|grader|rubrics?|metric|evaluator|verifier|checker|tolerance|reward_(?:fn|function|type)"
            r"|judge_prompt|eval_(?:type|method|fn|function)|scoring_\w+)"
        ),
        "a scorer",
        "scoring",
    ),
    (re.compile(r"(?:\w+_)?(?:history|dialog(?:ue)?|turns|rounds|follow_?ups?|questions)"), "more turns", None),
)
_PICTURE_NAME = re.compile(r"(?:image|img|picture|photo)_?(?:id|name|file_?name)")
_NUMBERED = re.compile(r"(?:images?|img|picture|photo)[ _-]?(\d+)")
_OPTION = re.compile(r"(?:option|choice|opt|op)[ _-]?([a-j]|\d{1,2})")
_PICTURE_FILE = re.compile(r"[^\n]{1,300}\.(?:png|jpe?g|jfif|webp|bmp|gif|tiff?|avif)", re.IGNORECASE)
_ALL = frozenset(name for names in NAMES.values() for name in names) | frozenset(SINGLE)

Renames = tuple[tuple[str, str | None], ...]
"""Pairs of our name for a column and the file's name for it, or of a file's name and None if that column is left out."""


def renames(columns: Mapping[str, Any] | Iterable[Any] | None) -> Renames:
    """The setting `columns`. Raises DatasetError if it is no mapping of names, or gives a name that means nothing."""
    pairs = tuple(columns.items()) if isinstance(columns, Mapping) else tuple(columns or ())
    for pair in pairs:
        if isinstance(pair, str) or len(pair) != 2 or not isinstance(pair[0], str) or not isinstance(pair[1], str | None):
            raise DatasetError("columns is not a mapping of names: write columns={question: problem, answer: solution}")
        ours, theirs = pair
        if theirs is not None and ours not in _ALL and not (number_of(ours) or option_of(ours) or re.fullmatch("[A-Z]", ours)):
            raise DatasetError(
                f"columns has {ours!r}, which is not read: write some of {', '.join(names[0] for names in NAMES.values())}"
            )
    return pairs


def cleaned(row: Mapping[str, Any], columns: Renames = ()) -> dict[str, Any]:
    """The row without absent values, with its columns named as `columns` says, and known names in lower case."""
    given: dict[str, Any] = dict(row)
    for ours, theirs in columns:
        for name in (ours, *(() if theirs is None else _others(ours))):
            given.pop(name, None)
        if theirs is not None:
            given[ours] = _at(row, theirs)
            if ours in NAMES["answer"] and isinstance(model := parsed(given.get("reward_model")), Mapping):
                given["reward_model"] = {name: value for name, value in model.items() if name != "ground_truth"}
    for theirs in {theirs for _, theirs in columns if theirs is not None} - {ours for ours, _ in columns}:
        given.pop(theirs, None)
    known: dict[str, Any] = {}
    for name, value in given.items():
        lower = str(name).strip().lower().replace(" ", "_")
        plain = lower if len(lower) > 1 and lower not in given and _is_read(lower) else str(name)
        if not absent(value) or (plain in ("tools", "needed_tools") and isinstance(value, list | tuple)):
            known[plain] = value
    return known


def absent(value: Any) -> bool:
    """Whether a value stands for none: null, NaN, an empty text or list, a mapping without values."""
    if value is None or (isinstance(value, str) and value.strip().lower() in ("", "nan", "<na>")):
        return True
    if isinstance(value, Mapping):
        return all(map(absent, value.values()))
    if isinstance(value, list | tuple | bytes):
        return len(value) == 0
    try:
        return math.isnan(value)
    except (TypeError, OverflowError):
        return False


def first(row: Mapping[str, Any], thing: str) -> tuple[str, Any] | None:
    """The first of the row's columns that hold a thing of `NAMES`, as (name, value)."""
    return next(((name, row[name]) for name in NAMES[thing] if name in row), None)


def number_of(name: str) -> int | None:
    """The number in the name of one of several columns of pictures, as in `image_2`."""
    match = _NUMBERED.fullmatch(name.lower())
    return int(match[1]) if match else None


def option_of(name: str) -> str | None:
    """The letter or number in the name of one of several columns of options, as in `option_a`."""
    match = _OPTION.fullmatch(name.lower())
    return match[1].upper() if match else None


def parsed(value: Any) -> Any:
    """A value that is a list or a mapping in JSON text, as such; any other value unchanged."""
    if isinstance(value, str) and value.strip()[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def text(value: Any) -> str:
    """A value as text; numbers that are whole have no decimal point."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        value = int(value)
    return "" if value is None else str(value).strip()


def plain(value: str) -> str:
    """A text in the form in which texts of a row are compared with each other: compatible characters, lower case, single spaces."""
    compatible = unicodedata.normalize("NFKC", value).casefold()
    return re.sub(r"\s+", " ", compatible).strip(" \"'").rstrip(".").strip()


def number(value: Any) -> float | None:
    """A value that is a number, or the text of one; None if it is not."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def unread(row: Mapping[str, Any]) -> set[str]:
    """The row's columns that are neither read nor only describe it."""
    return {name for name in row if not _is_read(name) and not _DESCRIBES.fullmatch(name.lower())}


def require_understood(row: Mapping[str, Any], has_pictures: bool) -> None:
    """Raises RowError if a column that is not read looks like a part of the question."""
    for name, value in row.items():
        if _is_read(name):
            continue
        plain_name = name.lower().replace(" ", "_")
        what, ours = None, None
        items = value if isinstance(value, list | tuple) else [value]
        if any(map(looks_encoded, items)) or (
            not has_pictures and items and all(isinstance(item, str) and _PICTURE_FILE.fullmatch(item) for item in items)
        ):
            what, ours = "pictures", "images"
        elif not _DESCRIBES.fullmatch(name.lower()):
            what, ours = next(((what, ours) for pattern, what, ours in _SUSPECTS if pattern.fullmatch(plain_name)), (None, None))
            if ours == "hint" and not isinstance(value, str | list | tuple | Mapping):
                what = None
        if what is None and not has_pictures and _PICTURE_NAME.fullmatch(name.lower()) and isinstance(value, str | int):
            what, ours = "the name of a picture that the row does not have", "images"
        if what is not None:
            remedy = f"write columns={{{ours}: {name}}} to read it, or " if ours else "write "
            raise RowError(f"the column {name} looks like {what} and is not read: {remedy}columns={{{name}: null}} to leave it out")
    turns = number(row.get("num_turns"))
    if turns is not None and turns > 1:
        raise RowError(f"the row has {text(turns)} turns (num_turns): write one row for each question")


def _is_read(name: str) -> bool:
    return name in _ALL or number_of(name) is not None or option_of(name) is not None or re.fullmatch("[A-Z]", name) is not None


def _others(ours: str) -> tuple[str, ...]:
    """The other names of what a renamed column holds: they would be read beside it or before it."""
    return next((names for names in NAMES.values() if ours in names and ours not in ("ability", "source", "hint")), ())


def _at(row: Mapping[str, Any], path: str) -> Any:
    """The value of a column, or of a part of one as in `extra_info.question`."""
    if path in row:
        return row[path]
    value: Any = row
    for part in path.split("."):
        value = parsed(value)
        value = value.get(part) if isinstance(value, Mapping) else None
    return value
