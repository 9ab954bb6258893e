"""The right answer of a row: what is compared of it, what else is accepted, and the rule that its form asks for."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any

from envs.datasets.columns import NAMES, absent, parsed, text
from envs.errors import RowError
from envs.scoring.types import Kind

_THOUGHTS = re.compile(r"\s*(?:<(think|thinking|thought|thoughts|reasoning|reason|analysis)>.*?</\1>|.*</think>)\s*", re.DOTALL)
_OPEN = re.compile(r"</?(?:think|thinking|reasoning)>")
_END = re.compile(r"\s*(?:<\|im_end\|>|<\|endoftext\|>|<\|eot_id\|>|</s>)\s*\Z")
_ANSWER = re.compile(r"<(answer|CONCLUSION)>(.*?)</\1>", re.DOTALL)
_BOX = re.compile(r"\\(?:boxed|fbox)\s*(?:\{|(?<=\s)([^\s{}$.,]+))")
_LATEX = re.compile(
    r"\\(?:[dt]?frac|sqrt|boxed|pi|times|cdot|text|mathrm|left|infty|circ|pm|theta|alpha|angle|sin|cos|log|ln|begin)(?![a-zA-Z])"
)
_FORMULA = re.compile(r"\$[^$]+\$|\\\(.+\\\)|\\\[.+\\\]|[^$]*(?:\^\{|_\{)[^$]*", re.DOTALL)
_MATHEMATICAL = re.compile(
    r"(?:^|[^a-z])(?:\w*(?<!after)math\w*|gsm8k|geo(?:metry)?3k|aime\d*|amc\d*|olympiad\w*|numina\w*|deepscaler|minerva|orz)(?:$|[^a-z])"
)
_FULL_MARKS = 3  # annotators of ten: VQA accuracy (Antol et al. 2015) is min(n / 3, 1)


@dataclass(frozen=True, slots=True)
class Truth:
    """`value` is a text, or for a multiple choice what names the option: a position, several letters. `kind` is the rule that its
    form asks for, None for any."""

    value: Any
    accepted: tuple[str, ...] = ()
    kind: Kind | None = None


def truth(row: Mapping[str, Any], reply: str | None, choice: bool) -> Truth:
    """The truth of a row: a column of it, else what the assistant said last.

    A list holds several right answers: any of them is right, or of a multiple `choice` all together. Raises RowError if the row has
    none, or none that is understood.
    """
    stated = _stated(row)
    accepted = next((_read(value, name, choice) for name, value in _accepted(row)), None)
    if stated is None and accepted is not None:
        return accepted
    if stated is None:
        explained = next(((name, row[name]) for name in NAMES["explanation"] if name in row), None)
        if explained is None and reply is not None and reply.strip():
            explained = ("assistant's last message", reply)
        if explained is None:
            raise RowError(
                'there is no answer; every row needs a question and an answer: "answer", or a last message of the assistant, or '
                "columns={answer: NAME} if it is called otherwise"
            )
        value = explained[1]
        if isinstance(value, list) and value and isinstance(value[-1], Mapping):  # TRL's completion: messages
            value = value[-1].get("content")
        return _read(value, explained[0], choice)
    found = _read(stated[1], stated[0], choice)
    if accepted is None or choice:
        return found
    others = dict.fromkeys((*found.accepted, str(accepted.value), *accepted.accepted))
    return Truth(found.value, tuple(one for one in others if one != found.value), found.kind)


def reward_model(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """verl's `reward_model`, also in JSON's or Python's notation; empty if a row has none. Raises RowError for other forms."""
    model = _literal(row.get("reward_model", {}))
    if not isinstance(model, Mapping):
        raise RowError('reward_model is no mapping: write {"style": "rule", "ground_truth": "…"}')
    return model


def is_mathematical(name: str) -> bool:
    """Whether the name of a data set, or of an ability, is one whose answers are expressions."""
    return _MATHEMATICAL.search(name.lower()) is not None


def is_latex(answer: str) -> bool:
    """Whether an answer is written in LaTeX."""
    return bool(_LATEX.search(answer) or _FORMULA.fullmatch(answer.strip()) or re.search(r"\$[^$]*[\\^_=][^$]*\$", answer))


def _stated(row: Mapping[str, Any]) -> tuple[str, Any] | None:
    """The column that states the answer. Raises RowError if two of them disagree."""
    model = reward_model(row)
    if not absent(model.get("ground_truth")):
        return "reward_model.ground_truth", model["ground_truth"]
    given = [(name, row[name]) for name in NAMES["answer"] if name in row]
    if not given:
        return None
    values = [_plain(value) for _, value in given]
    if any(value != values[0] for value in values[1:]):
        names = [name for name, _ in given]
        raise RowError(f"{' and '.join(names)} differ: write columns={{{names[-1]}: null}} to leave one out")
    return given[0]


def _accepted(row: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    """The columns of further right answers, and the parts of verl's `reward_model` (MMSearch-R1)."""
    model = reward_model(row)
    for name in NAMES["accepted"]:
        for holder, prefix in ((row, ""), (model, "reward_model.")):
            if not absent(holder.get(name)):
                yield prefix + name, holder[name]


def _plain(value: Any) -> str:
    try:
        return _clean(text(value)).casefold()
    except RowError:
        return text(value)


def _read(value: Any, name: str, choice: bool) -> Truth:
    """One value of a row as the truth."""
    value = _literal(value)
    if isinstance(value, Mapping):
        return _mapping(value, name, choice)
    if isinstance(value, list | tuple):
        return _several(value, name, choice)
    if isinstance(value, bool):
        return Truth(value if choice else str(value), ("yes" if value else "no",) if not choice else ())
    if isinstance(value, date):
        return Truth(value.isoformat(), (), Kind.DATE)
    if isinstance(value, int | float | Decimal):
        value = value if isinstance(value, int) else float(value)
        return Truth(value if choice else text(value), (), Kind.NUMBER)
    if not isinstance(value, str):
        raise RowError(f"{name} is {value!r}: write a text, a number, or a list of right answers")
    cleaned = _clean(value)
    if not cleaned:
        raise RowError("there is no answer; every row needs a question and an answer")
    mathematical = is_latex(cleaned) or bool(_BOX.search(value)) or bool(re.search(r"^####", value, re.MULTILINE))
    return Truth(cleaned, (), Kind.MATH if mathematical else None)


def _mapping(value: Mapping[str, Any], name: str, choice: bool) -> Truth:
    for key in ("target", "answer", "value", "text", "ground_truth", "answers"):
        if not absent(value.get(key)):
            found = _read(value[key], f"{name}.{key}", choice)
            aliases = parsed(value.get("aliases")) or ()
            more = tuple(text(alias) for alias in aliases if text(alias) != found.value)
            return Truth(found.value, tuple(dict.fromkeys((*found.accepted, *more))), found.kind)
    raise RowError(f"{name} has {', '.join(map(str, value))}: write a text, a number, or a list of right answers")


def _several(values: Iterable[Any], name: str, choice: bool) -> Truth:
    read = [_read(value, name, False) for value in values if not absent(value)]
    if not read:
        raise RowError("there is no answer; every row needs a question and an answer")
    if any(isinstance(value, list | tuple) for value in values):
        raise RowError(f"{name} is a list of lists: write a list of right answers")
    texts = [str(one.value) for one in read]
    if choice:
        return Truth(list(dict.fromkeys(texts)) if len(set(texts)) > 1 else texts[0])
    counts = Counter(texts)
    if len(texts) >= 10 and len(counts) < len(texts):  # the answers of ten annotators, as in VQAv2 and TextVQA
        most = max(counts.values())
        texts = [one for one, count in counts.most_common() if count >= min(_FULL_MARKS, most)]
    kinds = {one.kind for one in read if str(one.value) in texts}
    others = dict.fromkeys((*texts[1:], *(more for one in read for more in one.accepted)))
    return Truth(texts[0], tuple(one for one in others if one != texts[0]), kinds.pop() if len(kinds) == 1 else None)


def _literal(value: Any) -> Any:
    """A list of texts, or a mapping, in JSON or Python's notation as such: VLMEvalKit's tables hold several answers so. A list of
    numbers stays a text: it may be an interval or coordinates."""
    if not isinstance(value, str) or not re.match(r"\s*(?:\[\s*[\"']|\{\s*[\"'])", value):
        return value
    found = parsed(value)
    if isinstance(found, str):
        try:
            found = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            return value
    texts = isinstance(found, list) and all(isinstance(one, str) for one in found)
    return found if texts or isinstance(found, Mapping) else value


def _clean(written: str) -> str:
    """The answer alone: without thoughts and end tokens, and what `<answer>`, `\\boxed{}` or GSM8K's `####` hold."""
    rest = _END.sub("", _THOUGHTS.sub("", written, count=1))
    if tagged := _ANSWER.findall(rest):
        rest = tagged[-1][1]
    if _OPEN.search(rest):
        raise RowError("the answer is thoughts without an end: write the answer after </think>")
    if (boxed := _boxed(rest)) is not None:
        return boxed.strip()
    if marked := re.findall(r"^####[ \t]*(.+?)[ \t]*$", rest, re.MULTILINE):
        return marked[-1]
    return rest.strip()


def _boxed(written: str) -> str | None:
    """What the last `\\boxed{}` or `\\fbox{}` holds, braces matched, or the sign behind a `\\boxed` without braces."""
    if not (found := list(_BOX.finditer(written))):
        return None
    if found[-1][1]:
        return found[-1][1]
    depth, begin = 0, found[-1].end() - 1
    for place in range(begin, len(written)):
        depth += {"{": 1, "}": -1}.get(written[place], 0)
        if depth == 0:
            return written[begin + 1 : place]
    raise RowError("the answer's \\boxed{ is never closed")
