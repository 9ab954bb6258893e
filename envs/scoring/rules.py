"""The rules that need no model: equal texts, numbers with units, choices, lists, dates. No rule raises, whatever the answer."""

from __future__ import annotations

import math
import re
import unicodedata
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING

from dateutil import parser as dates

from envs.scoring.types import Kind, Scoring

if TYPE_CHECKING:
    from pint import UnitRegistry

_NUMBER = r"[+-]?(?=\.?\d)(?:\d{1,3}(?:[,\u202f\u00a0 ]\d{3})+(?!\d)|\d+)?(?:\.\d*)?(?:e[+-]?\d+)?"
_SCALES = {"thousand": 1e3, "million": 1e6, "billion": 1e9, "bn": 1e9, "trillion": 1e12, "tn": 1e12}
_SCALE = rf"(?:({'|'.join(_SCALES)})\b)?"
_CURRENCIES = {
    "$": ("usd", "dollar", "dollars"),
    "€": ("eur", "euro", "euros"),
    "£": ("gbp", "pound_sterling", "pounds_sterling"),
    "¥": ("jpy", "yen"),
}
_LABEL = re.compile(r"^\(?([a-z])\)?\s*[.):]?(?:\s|$)", re.IGNORECASE)
_SEPARATORS = re.compile(r"\s*(?:[,;\n]|\band\b)\s*", re.IGNORECASE)


def exact(answer: str, truth: str) -> bool:
    """Whether the texts are equal after normalisation; plain numbers are compared by value (relative tolerance 1e-6)."""
    answer, truth = normalise(answer), normalise(truth)
    if answer == truth:
        return True
    given, expected = _plain_number(answer), _plain_number(truth)
    return given is not None and expected is not None and math.isclose(given, expected, rel_tol=1e-6, abs_tol=1e-9)


def normalise(text: str) -> str:
    """The text in Unicode-compatible form, lower case, single spaces, without surrounding quotes or a final full stop."""
    text = unicodedata.normalize("NFKC", text).casefold()
    text = re.sub(r"\s+", " ", text).strip().strip("\"'").strip()
    return text.rstrip(".").strip() if not re.fullmatch(r"[\d.]+", text) else text


def number(answer: str, truth: str, scoring: Scoring) -> bool:
    """Whether the number is within the tolerance, after conversion into the question's unit. Another dimension is wrong."""
    expected = quantity(truth, scoring.unit)
    given = quantity(answer, scoring.unit)
    if expected is None or given is None:
        return exact(answer, truth)
    return math.isclose(given, expected, rel_tol=scoring.relative, abs_tol=scoring.absolute)


def quantity(text: str, unit: str) -> float | None:
    """The number in a text, in `unit`; None if it holds none, more than one, or one of another dimension.

    Grouped digits, exponents, `%` and words like "million" are read. Such a word may also be part of `unit`: "26.2", "26.2 billion"
    and "26,200 million USD" are each 26.2 in "billion usd". A text with neither unit nor word is in `unit` already.
    """
    for written, plain in (("²", "^2"), ("³", "^3"), ("°", "deg"), ("−", "-")):  # before the compatible form makes km2 of km²
        text = text.replace(written, plain)
    text = unicodedata.normalize("NFKC", text).strip().rstrip(".")
    text = re.sub(r"^(?:about|approximately|roughly|around|~|≈|=)\s*", "", text, flags=re.IGNORECASE)
    pattern = rf"([$€£¥]?)\s*({_NUMBER})\s*{_SCALE}\s*(.*)"
    match = re.fullmatch(pattern, text, re.DOTALL | re.IGNORECASE)
    if match is None or not re.search(r"\d", match.group(2)):
        return None
    value, scale = float(re.sub(r"[,\u202f\u00a0 ]", "", match.group(2))), (match.group(3) or "").casefold()
    written_unit = match.group(4).strip() or _CURRENCIES.get(match.group(1), ("",))[0]
    scaled_unit = re.fullmatch(rf"{_SCALE}\s*(.*)", unit, re.IGNORECASE)
    if scaled_unit is not None and scaled_unit.group(1) and (scale or written_unit):
        value, unit = value / _SCALES[scaled_unit.group(1).casefold()], scaled_unit.group(2)
    value *= _SCALES.get(scale, 1.0)
    return None if not math.isfinite(value) or len(written_unit) > 40 else _converted(value, written_unit, unit)


def choice(answer: str, truth: str, scoring: Scoring) -> bool:
    """Whether the answer is the right letter, "(B)", "B.", "B: text", or the text of the right option alone."""
    letters = {letter.casefold(): normalise(text) for letter, text in scoring.options}
    right = _chosen(truth, letters)
    return right is not None and _chosen(answer, letters) == right


def date(answer: str, truth: str) -> bool:
    """Whether it is the same day, or the same month or year if the truth names no more; "3 May 2021" is "2021-05-03"."""
    expected, given = _date(truth), _date(answer)
    if expected is None or given is None:
        return exact(answer, truth)
    return expected == given


def parts(text: str) -> list[str]:
    """The parts of a list: between commas, semicolons, lines or "and", without brackets and numbering."""
    inside = text.strip().removeprefix("[").removesuffix("]")
    return [re.sub(r"^(?:\d+[.)]|[-•*])\s+", "", part).strip() for part in _SEPARATORS.split(inside) if part.strip()]


def rule(kind: Kind, answer: str, truth: str, scoring: Scoring) -> bool:
    """The rule of a kind that needs no model and no other process."""
    if kind is Kind.NUMBER:
        return number(answer, truth, scoring)
    if kind is Kind.CHOICE:
        return choice(answer, truth, scoring)
    if kind is Kind.DATE:
        return date(answer, truth)
    if kind is Kind.LIST:
        return _lists(answer, truth, scoring)
    return exact(answer, truth)


def _lists(answer: str, truth: str, scoring: Scoring) -> bool:
    given, expected = parts(answer), parts(truth)
    if len(given) != len(expected):
        return False
    if scoring.ordered:
        return all(rule(scoring.item, *pair, scoring) for pair in zip(given, expected, strict=True))
    for part in expected:
        found = next((index for index, other in enumerate(given) if rule(scoring.item, other, part, scoring)), None)
        if found is None:
            return False
        del given[found]
    return True


def _plain_number(text: str) -> float | None:
    if not re.fullmatch(_NUMBER, text) or not re.search(r"\d", text):
        return None
    return float(re.sub(r"[,\u202f\u00a0 ]", "", text))


def _chosen(text: str, letters: dict[str, str]) -> str | None:
    option_text = normalise(text)
    by_text = [letter for letter, option in letters.items() if option == option_text]
    if len(by_text) == 1:
        return by_text[0]
    match = _LABEL.match(re.sub(r"^(?:the )?(?:answer|option)(?: is)?:?\s*", "", option_text))
    return match.group(1).casefold() if match and match.group(1).casefold() in letters else None


def _date(text: str) -> tuple[int, ...] | None:
    """Year, month and day, as many of them as the text names."""
    readings = []
    for default in (datetime(2000, 1, 1), datetime(2001, 2, 2)):  # what differs between the two readings was not said
        try:
            readings.append(dates.parse(text.strip(), default=default))
        except (ValueError, OverflowError, TypeError, AttributeError):
            return None
    first, second = readings
    named = []
    for field in ("year", "month", "day"):
        if getattr(first, field) != getattr(second, field):
            break
        named.append(getattr(first, field))
    return tuple(named) or None


@lru_cache(maxsize=1)
def _units() -> UnitRegistry:
    import pint  # takes a while, and few tasks have units

    registry = pint.UnitRegistry(autoconvert_offset_to_baseunit=True)
    for names in _CURRENCIES.values():  # each is a dimension: currencies are not converted
        registry.define(f"{names[0]} = [{names[0]}] = {' = '.join(names)}")
    registry.define("person = [person] = people = persons = inhabitants")
    return registry


def _converted(value: float, unit: str, target: str) -> float | None:
    if unit == target or not unit or _same_words(unit, target):
        return value
    if not target:  # a bare number is expected; the answer may name what it counts
        return None if re.search(r"\d", unit) else value
    for word, plain in (("square ", "square_"), ("cubic ", "cubic_"), ("sq ", "square_"), ("per cent", "percent")):
        unit = unit.replace(word, plain)
    unit = re.sub(r"(?<=[a-z])([23])\b", r"^\1", unit, flags=re.IGNORECASE)  # km2
    registry = _units()
    for name in (unit, unit.casefold()):  # "Miles" too; but M is not m
        try:
            return float(registry.Quantity(value, name).to(target).magnitude)
        except Exception:  # pint's parser may raise any error for any text; what it cannot read is not a unit
            continue
    return None


def _same_words(unit: str, target: str) -> bool:
    return unit.casefold().rstrip("s").replace("_", " ") == target.casefold().rstrip("s").replace("_", " ")
