"""The options of a multiple choice, and which of them an answer names."""

from __future__ import annotations

import ast
import re
import string
from collections.abc import Mapping, Sequence
from typing import Any

from envs.datasets.columns import first, option_of, parsed, plain, text
from envs.errors import RowError

Options = tuple[tuple[str, str], ...]
"""Pairs of a letter and the option's text."""

_LABEL = re.compile(r"\s*[(\[]?([A-Z])(?:[)\].:、]|\s*[-–]\s)\s*(.+)", re.DOTALL)
_LINE = re.compile(r"^[ \t]*(?:\(([A-Z])\)|([A-Z])[.):])[ \t]*(\S.*?)\s*$", re.MULTILINE)
_DRESS = re.compile(r"[\s(\[*$]*([a-z])[\s)\].:*,$]*", re.IGNORECASE)
_LEAD = r"\s*(?:the\s+)?(?:(?:correct\s+)?(?:answer|option|choice)\s*(?:is)?\s*:?\s*)"
_LED = re.compile(rf"{_LEAD}?\(?([a-z])\s*[).:]\s*(\S.*)", re.IGNORECASE | re.DOTALL)
_NAMED = re.compile(rf"{_LEAD}\(?([a-z])\)?\.?\s*", re.IGNORECASE)
_IN_LINE = re.compile(r"[(\[]?\b([A-Z])[)\].:]\s*(.*?)\s*(?=[,;\n]?\s*[(\[]?\b[A-Z][)\].:]\s|\Z)", re.DOTALL)
_HEADED = re.compile(r"\b(?:options|choices)\s*[:：]\s*(\(?A[).:][^\n]+)\s*\Z", re.IGNORECASE)
_SEVERAL = re.compile(r"\s*(?:\)\s*\(|,|;|/|&|\+|、|\band\b|\s)\s*", re.IGNORECASE)
_EITHER = re.compile(r"\s+or\s+", re.IGNORECASE)


def options_of(row: Mapping[str, Any]) -> Options:
    """The options of a row: columns `A`, `B`, …, columns `option_a`, …, or a list or mapping; none if it has none.

    Raises RowError if they are in another form.
    """
    lettered = {name: text(value) for name, value in row.items() if re.fullmatch("[A-Z]", name)}
    if lettered:
        if len(lettered) < 2 or not {"A", "B"} & set(lettered):
            raise RowError(f"there is only the column {', '.join(lettered)}: options are in columns A, B, …")
        return tuple(sorted(lettered.items()))
    named = sorted((letter, text(value)) for name, value in row.items() if (letter := option_of(name)) is not None)
    if named:
        if all(letter.isdigit() for letter, _ in named):
            return _lettered([option for _, option in sorted(named, key=lambda pair: int(pair[0]))])
        return tuple(named)
    given = first(row, "options")
    return () if given is None else _listed(*given)


def own_labels(row: Mapping[str, Any]) -> dict[str, str]:
    """The letters of the options by the labels that the row gives them, as ARC's "1" to "4", if those are no letters."""
    numbered = sorted((int(label), label) for name in row if (label := option_of(name)) is not None and label.isdigit())
    given = first(row, "options")
    pairs = None if given is None else _pairs(given[0], _literal(given[1]))
    labels = [str(label) for label, _ in pairs] if pairs is not None else [label for _, label in numbered]
    return dict(zip(labels, string.ascii_uppercase, strict=False)) if all(map(str.isdecimal, labels)) else {}


def inline_options(question: str) -> Options:
    """The options that stand in the question's own text, one a line from A on, or in one line after "Options:"; none if they do
    not."""
    found = [(match[1] or match[2], match[3]) for match in _LINE.finditer(question)]
    letters = [letter for letter, _ in found]
    if len(found) > 1 and letters == list(string.ascii_uppercase[: len(found)]):
        return tuple(found)
    return _in_line(match[1]) if (match := _HEADED.search(question)) else ()


def chosen(answer: Any, options: Options, column: str = "", labels: Mapping[str, str] | None = None) -> tuple[str, tuple[str, ...]]:
    """The truth of a multiple choice: its letter, or letters like "A, C" if all of them are right, and the other accepted letters.

    `answer` is a letter in any dress, the text of an option, a position counted from 0, or several of them. `column` is the name of
    the options' column, `labels` are `own_labels`: an answer that is one of them means it. Raises RowError if it names no option,
    or may mean two.
    """
    letters = [letter for letter, _ in options]
    if isinstance(answer, list | tuple):
        several = sorted({chosen(one, options, column, labels)[0] for one in answer}, key=letters.index)
        return ", ".join(several), ()
    if labels and not isinstance(answer, bool) and (named := labels.get(text(answer))) is not None:
        if isinstance(answer, int | float) and _position(int(answer), options, "choices") != named:
            raise RowError(f"the answer {answer} may be an option's label or its position: write the letter of the right option")
        return named, ()
    if isinstance(answer, bool):
        said = [one for word in (str(answer), "yes" if answer else "no") if (one := _one(word, options))]
        return chosen(said[0] if said else str(answer), options)
    if isinstance(answer, float) and answer.is_integer():
        answer = int(answer)
    if isinstance(answer, int):
        return _position(answer, options, column), ()
    written = text(answer)
    if column == "choices" and written.isdecimal() and not any(plain(option) == written for _, option in options):
        return _position(int(written), options, column), ()
    if (one := _one(written, options)) is not None:
        return one, ()
    either = [_one(part, options) for part in _EITHER.split(written)]
    if len(either) > 1 and None not in either:
        return str(either[0]), tuple(map(str, either[1:]))
    parts = [part for part in _SEVERAL.split(written.strip("[](){} .")) if part]
    if len(parts) == 1 and written.isupper() and set(written) <= set(letters):
        parts = list(written)
    found = [_one(part.strip("'\""), options) for part in parts]
    if len(found) > 1 and None not in found:
        return ", ".join(sorted(set(map(str, found)), key=letters.index)), ()
    remedy = ": write its letter, or a number that is not a text for its position from 0" if written.isdecimal() else ""
    raise RowError(f"the answer {written!r} is none of the options {', '.join(letters)}{remedy}")


def shown(options: Options, question: str) -> list[str]:
    """The lines of the options, unless the question's text has them already."""
    asked = plain(question)
    return [] if all(plain(option) in asked for _, option in options) and inline_options(question) else _lines(options)


def _lines(options: Options) -> list[str]:
    return [f"{letter}. {option}" for letter, option in options]


def _one(written: str, options: Options) -> str | None:
    """The letter of the option that a text names."""
    bare = plain(written)
    written = re.sub(r"(?<=option|choice)[_-]", " ", written, flags=re.IGNORECASE)
    same = [letter for letter, option in options if plain(option) == bare]
    letters = {letter.casefold(): letter for letter, _ in options}
    match = _DRESS.fullmatch(written)
    named = letters.get(match[1].casefold()) if match else None
    if named is not None and len(same) == 1 and same[0] != named:
        raise RowError(
            f"the answer {written!r} is one option's letter and another's text: write both, as in '{_lines(options)[0]}'"
        )
    if len(same) == 1 or named is not None:
        return same[0] if len(same) == 1 else named
    if len(same) > 1:
        raise RowError(f"the answer {written!r} is the text of several options: write its letter")
    if match := _LED.fullmatch(written):
        letter = letters.get(match[1].casefold())
        if letter is not None and plain(dict(options)[letter]) == plain(match[2]):
            return letter
    if match := _NAMED.fullmatch(written):
        return letters.get(match[1].casefold())
    return None


def _position(answer: int, options: Options, column: str) -> str:
    same = [letter for letter, option in options if plain(option) == str(answer)]
    letter = options[answer][0] if 0 <= answer < len(options) else None
    # ScienceQA's and MMLU's `choices` come with the position of the right one.
    if letter is not None and (not same or same == [letter] or column == "choices"):
        return letter
    if letter is None and len(same) == 1:
        return same[0]
    raise RowError(f"the answer {answer} may be an option or its position: write the letter of the right option")


def _listed(name: str, value: Any) -> Options:
    value = _literal(value)
    if (pairs := _pairs(name, value)) is not None:
        labels = [label for label, _ in pairs if label is not None]
        texts = [option for _, option in pairs]
        return _relabelled(list(zip(labels, texts, strict=True))) if len(labels) == len(pairs) else _lettered(texts)
    if isinstance(value, str):
        found = inline_options(value) or _in_line(value)
        if not found:
            raise RowError(f"{name} is {value[:80]!r}: write a list of texts")
        return found
    if not isinstance(value, Sequence):
        raise RowError(f"{name} is {value!r}: write a list of texts")
    return _lettered([text(option) for option in value])


def _pairs(name: str, value: Any) -> list[tuple[str | None, str]] | None:
    """Options that come with labels of their own, as pairs of a label and a text; None if they are in another form."""
    if isinstance(value, Mapping):
        texts, labels = value.get("text", value.get("texts")), value.get("label", value.get("labels"))
        if isinstance(texts, list) and isinstance(labels, list):
            if len(texts) != len(labels):
                raise RowError(f"{name} has {len(texts)} texts and {len(labels)} labels")
            return [(str(label), text(option)) for label, option in zip(labels, texts, strict=True)]
        return [(str(label), text(option)) for label, option in value.items() if option is not None]
    if not isinstance(value, list | tuple) or not value or not all(isinstance(option, Mapping) for option in value):
        return None
    pairs = []
    for option in value:
        label = next((option[key] for key in ("label", "key", "letter", "id") if option.get(key) is not None), None)
        content = next((option[key] for key in ("text", "value", "content", "option") if option.get(key) is not None), None)
        if content is None:
            raise RowError(f"{name} has {option!r}: write a list of texts")
        pairs.append((None if label is None else text(label), text(content)))
    return pairs


def _in_line(written: str) -> Options:
    """Options one after the other in a line, as in "A: red, B: blue"; none if they are not those from A on."""
    found = tuple((letter, option.strip()) for letter, option in _IN_LINE.findall(written))
    letters = [letter for letter, _ in found]
    return found if len(found) > 1 and letters == list(string.ascii_uppercase[: len(found)]) else ()


def _relabelled(pairs: list[tuple[str, str]]) -> Options:
    """Options by their own labels: letters stay, "(a)" becomes A, numbers become letters in their order."""
    labels = [re.sub(r"[\s().:\[\]]", "", label).upper() for label, _ in pairs]
    if all(re.fullmatch("[A-Z]", label) for label in labels) and len(set(labels)) == len(labels):
        return tuple((label, option) for label, (_, option) in zip(labels, pairs, strict=True))
    return _lettered([option for _, option in pairs])


def _lettered(texts: Sequence[str]) -> Options:
    if len(texts) > 26:
        raise RowError(f"there are {len(texts)} options: at most 26 have letters")
    own = [_LABEL.fullmatch(option) for option in texts]
    letters = string.ascii_uppercase[: len(texts)]
    if texts and all(own) and [match[1] for match in own if match] == list(letters):
        texts = [match[2] for match in own if match]
    return tuple(zip(letters, map(str.strip, texts), strict=True))


def _literal(value: Any) -> Any:
    """A list or a mapping in JSON or in Python's notation (MMMU), as such."""
    value = parsed(value)
    if isinstance(value, str) and value.strip()[:1] in ("[", "{"):
        try:
            return ast.literal_eval(value.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            return value
    return value
