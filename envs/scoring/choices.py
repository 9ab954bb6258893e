"""The rule for multiple choice: the label in any dress, the option's text, or both if they agree; several labels if asked for."""

from __future__ import annotations

import re

from envs.scoring.lists import encloses, parts
from envs.scoring.markup import unwrapped, without_latex
from envs.scoring.mathematics.latex import expression
from envs.scoring.quantities import quantity
from envs.scoring.texts import exact, normalise
from envs.scoring.types import Scoring

_NOUN = (
    r"(?:(?:the\s+)?(?:correct\s+|right\s+|best\s+)?(?:option|choice|answer|letter|label|(?:正确)?选项|選項)s?"
    r"|(?:所以|因此|故)?[应應我]?(?:选择?|選擇?))"
)
_BEFORE = re.compile(
    rf"(?i)\A(?:{_NOUN}(?:\s+(?:is|are)\b|[是为])?\s*:?\s*|i\s+(?:would\s+)?(?:choose|pick|select)\s+|both\s+)(?=[^\s:])"
)
_RIGHT = rf"(?:correct|right|true|{_NOUN})"
_AFTER = re.compile(rf"(?i)\s+(?:is|are)\s+(?:the\s+)?{_RIGHT}\s*[.!]?\Z|\s*(?:选项|選項|项|項|是正确的|正确)\s*。?\Z")
_EMPHASISED = re.compile(r"\A\s*(?:\*\*|__|`|\\(?:boxed|textbf)\{)([^\W_]{1,4})(?:\*\*|__|`|\})(?=\s)")
_AND_OR = re.compile(r"(?i)\b(?:and|or)\b")
_IT = re.compile(r"(?i)\A(?:it|they|he|she)\s+")
_BRACKETS = {"(": ")", "[": "]", "{": "}", "<": ">", "【": "】"}


def choice(answer: str, truth: str, scoring: Scoring) -> bool:
    """Whether the answer names exactly the right options: by label, by text, or by both if they agree.

    A truth of one option is its label or its text; of several, their labels, as in "A, C", in any order. The label wins if the text
    of another option looks like it.
    """
    options = {_label(label): text for label, text in scoring.options}
    right = chosen(truth, options)
    return right is not None and chosen(answer, options, several=len(right) > 1) == right


def chosen(text: str, options: dict[str, str], several: bool = True) -> frozenset[str] | None:
    """The labels that a text names; None if it names none, or contradicts itself."""
    whole = unwrapped(text).casefold()
    same = [label for label, option in options.items() if whole and unwrapped(option).casefold() == whole]
    if len(same) == 1 and _label(whole) not in options:
        return frozenset(same)  # "both A and B", if an option says so
    text = _bare(text)
    if (one := _one(text, options)) is not None:
        return frozenset([one])
    if not several:
        return None
    letters = text.rstrip(".。")
    if re.fullmatch(r"[A-Z]{2,}", letters) and set(letters.casefold()) <= set(options) and len(set(letters)) == len(letters):
        return frozenset(letters.casefold())
    pieces = parts(text)
    if len(pieces) == 1 and len(joined := re.split(r"\s*(?:\+|和|与|與|及|と|[와과])\s*", text)) > 1:
        pieces = joined
    elif len(pieces) == 1 and len(text.split()) > 1 and all(_label(word) in options for word in text.split()):
        pieces = text.split()  # "A C"
    named = [_one(_bare(piece), options) for piece in pieces]
    if len(named) < 2 or None in named or len(set(named)) < len(named):
        return None
    return frozenset(name for name in named if name is not None)


def _bare(text: str) -> str:
    text = without_latex(unwrapped(_EMPHASISED.sub(r"(\1)", text))).strip()
    for _ in range(3):
        if encloses(text) and len(text) > 6:  # a label in brackets is one
            text = text[1:-1]
        text = unwrapped(_AFTER.sub("", _BEFORE.sub("", text))).strip()
    return " ".join(text.split()) if "\n" not in text else text


def _label(text: str) -> str:
    """A label without brackets and punctuation, in lower case: "(B)." as "b"."""
    text = text.strip()
    for _ in range(3):
        text = text.rstrip(".:。、,;：，!！").strip()
        if len(text) > 2 and _BRACKETS.get(text[0]) == text[-1]:
            text = text[1:-1].strip()
        elif text.endswith(")") and "(" not in text:
            text = text[:-1].strip()
    return text.casefold()


def _one(text: str, options: dict[str, str]) -> str | None:
    if (label := _label(text)) in options:
        return label
    if (numeral := normalise(text)).isdigit() and numeral in options:
        return numeral
    by_text = _by_text(text, options)
    marked = re.match(
        r"\s*(?:[(\[{【<]\s*([^\W_]{1,4})\s*[)\]}】>]|([^\W_]{1,4})(?:\s*[.:),;、|/](?!\d)|\s+[-=>]|\s*\(|\s*→|\n))", text
    )
    if marked and (label := (marked[1] or marked[2]).casefold()) in options and text.strip() not in options.values():
        by_text = by_text if by_text == label else None  # "A. dog" is no article
    first = re.match(r"\s*([(\[{【<]?\s*[^\W_]{1,4}\s*[)\]}】>]?)\s*([.:,。、)\-=|]?)\s*(?:is\s+)?(.+)", text, re.DOTALL)
    last = re.fullmatch(r"(.+?)[\s,]*([(\[{【]\s*[^\W_]{1,4}\s*[)\]}】])\s*\.?", text, re.DOTALL)
    for label, rest in ((first[1], first[3]) if first else ("", ""), (last[2], last[1]) if last else ("", "")):
        if _label(label) in options and _by_text(re.sub(r"\A[-:.,]\s*", "", rest), options, only=_label(label)):
            return _label(label) if by_text in (None, _label(label)) else None
    return by_text


def _by_text(text: str, options: dict[str, str], only: str | None = None) -> str | None:
    """The one option whose text this is, or whose number; `only` asks for one option alone."""
    labels = [only] if only is not None else list(options)
    equal = [label for label in labels if options[label].strip() == text.strip()] or [
        label for label in labels if exact(text, options[label])
    ]
    if not equal and (said := _IT.sub("", text)) != text:  # "It increases."
        equal = [label for label in labels if exact(said, options[label])]
    if not equal:
        equal = [label for label in labels if _same_expression(text, options[label])]
    if not equal:
        equal = [label for label in labels if _same_number(text, options[label])]
    return equal[0] if len(equal) == 1 else None


def _same_expression(text: str, option: str) -> bool:
    """Whether both are one expression in other spellings: `√2`, `$\\sqrt{2}$`."""
    given, expected = expression(text), expression(option)
    if given.words or expected.words or given.is_refused or _AND_OR.search(text):
        return False
    return given.latex.replace(" ", "") == expected.latex.replace(" ", "") and (given.unit, given.percent) == (
        expected.unit,
        expected.percent,
    )


def _same_number(text: str, option: str) -> bool:
    expected = quantity(option, "")
    given = None if expected is None else quantity(text, expected.unit)
    return given is not None and expected is not None and (given.value, given.percent) == (expected.value, expected.percent)
