"""The rule for numbers with units. The whole answer is read: a number, what scales it, and the unit or what is counted."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from envs.scoring.markup import unwrapped, without_latex
from envs.scoring.quantities.counted import is_counted
from envs.scoring.quantities.literals import leading
from envs.scoring.quantities.units import CURRENCY_CODES, CURRENCY_SIGNS, converted, is_unit
from envs.scoring.quantities.words import (
    CHINESE_NUMERALS,
    NUMBER_WORDS,
    SCALE_LETTERS,
    SCALE_WORDS,
    in_words,
)
from envs.scoring.texts import exact
from envs.scoring.types import DEFAULT_RELATIVE, Scoring

_BEFORE = re.compile(
    r"""(?ix)\A(?:
    (?:about|approximately|approx\.?|roughly|around|circa|ca\.|exactly|precisely|only|just|a\s+total\s+of|total\s+of|in\s+total|total:
       |there\s+(?:is|are)|there's|they\s+are|i\s+(?:count|see)|i\s+can\s+see|we\s+(?:get|have)|aged?)\s+
    | [~≈≃=:]\s* | (?:大约|大約|约|約|共有|总共有?|一共有?|共|有)\s*
    | (?:the\s+)?(?:total\s+)?(?:count|total|number|value)(?:\s+of\s+[a-z])?\s*(?:[:=]|is\b)\s*
    | (?:[图圖](?:片|像)?|照片|画面)(?:中|里|裡)(?:一?共)?有?\s*(?=\d|[一二三四五六七八九十两])
    | (?:[a-z]|θ|α|β|\\?theta|\\?alpha)(?:_\w+)?\s*[=≈]\s*
    )"""
)
_NUMBER_OF = re.compile(r"(?i)\A(?:the )?(?:total )?(?:number|count) of ([a-z ]{2,40}) is ([\w.,]+)\Z")
_AFTER = re.compile(
    r"(?i)[\s-]+(?:old|tall|long|wide|high|deep|thick|of\s+age|altogether|in\s+(?:total|all|length|height|width|depth|size))\Z"
)
_SIGNS = sorted((*CURRENCY_SIGNS, *CURRENCY_CODES), key=len, reverse=True)
_CURRENCY = re.compile(rf"(?i)\A([+-]?)\s*({'|'.join(map(re.escape, _SIGNS))})(?![a-z])\s*(?=[\d.+-])")
_PIECE = re.compile(r"\s*(?:,\s*|and\s+|,\s*and\s+)?(\d+(?:\.\d+)?)\s*([^\W\d_]+\.?|''|[\"'°])")


_CHINESE = re.compile("[{0}]+(?:[点點][{0}]+|分之[{0}]+)?".format("".join(sorted(CHINESE_NUMERALS))))
_NEGATIVE = re.compile(rf"(?i)(?:minus|negative)\s+(?=[\d.])|(?:负|負|マイナス)\s*(?=[\d.{''.join(sorted(CHINESE_NUMERALS))}])")
_ROUNDING = Fraction(1, 10_000)


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number and the unit that the text names, "" if it names none. A `percent` was divided by 100."""

    value: Fraction
    unit: str = ""
    percent: bool = False


def number(answer: str, truth: str, scoring: Scoring) -> bool:
    """Whether the number is within the tolerance, after conversion into the question's unit. Another dimension is wrong.

    The unit is the scoring's, or else the one that the truth names.
    """
    unit = scoring.unit
    expected = quantity(truth, unit)
    if expected is None and not unit and (found := _number(unwrapped(truth))) and is_unit(name := found[1].strip()):
        unit, expected = name, quantity(truth, name)  # 9.8 N, 5 mm: more units than an answer without one in the truth may name
    if expected is None:
        return exact(answer, truth)
    unit = unit or expected.unit
    if not scoring.unit and expected.unit:
        expected = Quantity(expected.value, expected.unit)
    readings = [quantity(part, unit) for part in _restated(answer)]
    return all(given is not None and _agree(given, expected, scoring) for given in readings)


def quantity(text: str, unit: str) -> Quantity | None:
    """The number in a text, in `unit`; None if it holds none, more than one, or one of another dimension.

    Grouped digits, powers of ten, fractions, number words, `%` and words like "million" are read. Such a word may also be part of
    `unit`: "26.2", "26.2 billion" and "26,200 million USD" are each 26.2 in "billion usd". A text with neither unit nor word is in
    `unit` already. Without a `unit`, the text may name one or what it counts.
    """
    text = " ".join(_bare(without_latex(unwrapped(text))).split())
    text = _NUMBER_OF.sub(r"\2 \1", re.sub(r"(?i)\Ahalf (?:of )?an? (?=[a-z])", "1/2 ", text))
    sign, currency = 1, ""
    if match := _CURRENCY.match(text):
        sign, currency = (-1 if match[1] == "-" else 1), CURRENCY_SIGNS.get(match[2].casefold(), match[2].casefold())
        text = text[match.end() :]
    found = _number(text)
    if found is None:
        return None
    value, rest = sign * found[0], found[1]
    scaled_unit = re.fullmatch(r"(hundred|thousand|million|billion|bn|trillion|tn|mio|mrd)\b\s*(.*)", unit, re.IGNORECASE)
    inner = scaled_unit[2] if scaled_unit else unit
    if (whole := _in_unit(value, rest, currency, inner)) is not None and not _is_scale(rest):
        scale, result = 1, whole
    else:
        scale, after = _scaled(rest, currency)
        scaled = _in_unit(value * scale, after, currency, inner) if scale else None
        if scaled is None or after == rest:
            return None
        result = scaled
    if scaled_unit is not None and (scale != 1 or result.unit):
        return Quantity(result.value / SCALE_WORDS[scaled_unit[1].casefold()], result.unit)
    return result


def _agree(given: Quantity, expected: Quantity, scoring: Scoring) -> bool:
    values = [given.value]
    if given.percent and not expected.percent and abs(expected.value) > 1:
        values.append(given.value * 100)  # a share is at most 1: the truth is a number of per cent
    if expected.percent and not given.percent:
        values.append(given.value / 100)
    return any(within(value, expected.value, scoring) for value in values)


def within(value: Fraction, truth: Fraction, scoring: Scoring) -> bool:
    """Whether the value is within the tolerance. The default is for rounded decimals: whole numbers must be equal."""
    if scoring.relative == DEFAULT_RELATIVE and truth.denominator == 1:
        rounding = 0 if value.denominator == 1 else min(_ROUNDING, Fraction(str(DEFAULT_RELATIVE)) * abs(truth))
        return abs(value - truth) <= max(rounding, Fraction(str(scoring.absolute)))
    return abs(value - truth) <= max(Fraction(str(scoring.relative)) * abs(truth), Fraction(str(scoring.absolute)))


def _restated(text: str) -> list[str]:
    """The answer, or its two halves if the second says the first again in brackets: "26.2 miles (42.2 km)", "5 (five)"."""
    text = without_latex(unwrapped(text))
    match = re.fullmatch(r"([^()\[\]]*[^()\[\]\s^*/×·=+-])\s*[(\[]([^()\[\]]+)[)\]]\s*\.?", text, re.DOTALL)
    if match is None:
        return [text]
    if in_words(match[2].strip().casefold()) is None and not re.search(r"\d", match[2]):
        return [f"{match[1]} {match[2]}"]
    return [match[1], match[2]]


def _bare(text: str) -> str:
    """The text without words before it that leave its value as it is, brackets around it, and a full stop."""
    for _ in range(6):
        before = text
        text = _AFTER.sub("", _BEFORE.sub("", text.strip()))
        if match := re.fullmatch(r"\(([^()]*)\)|\[([^\[\]]*)\]|\{([^{}]*)\}", text):
            text = next(group for group in match.groups() if group is not None)
        text = re.sub(r"(?<=\w)\.$|。$|(?<=[%°\"')])\.$", "", text.strip())
        if text == before:
            break
    return text


def _number(text: str) -> tuple[Fraction, str] | None:
    """The number that a text begins with, in digits or in words, and the rest of it."""
    if match := _NEGATIVE.match(text):
        found = _number(text[match.end() :])
        return None if found is None else (-found[0], found[1])
    if literal := leading(text):
        return literal.value, text[literal.end :]
    run = _CHINESE.match(text)
    if run is not None:
        value = in_words(run[0])
        return None if value is None else (value, text[run.end() :])
    words = [(match.group(), match.end()) for match in re.finditer(r"[A-Za-z]+", text)][:24]
    for count in range(len(words), 0, -1):
        end = words[count - 1][1]
        value = in_words(text[:end].casefold())
        if value is not None:
            following = words[count][0].casefold() if count < len(words) else ""
            return None if following in NUMBER_WORDS or following in ("and", "point", "or") else (value, text[end:])
    return None


def _is_scale(rest: str) -> bool:
    word = re.match(r"\s*([^\W\d_]{2,})\.?(?![^\W_])", rest)
    return word is not None and word[1].casefold() in SCALE_WORDS


def _scaled(rest: str, currency: str) -> tuple[int, str]:
    """The factor that the words after a number give it, and what follows them; a factor of 0 if it is not understood."""
    factor, words = 1, 0
    while words < 2 and (match := re.match(r"\s*([^\W\d_]+)\.?(?![\w^])", rest)):
        word = match[1]
        scale = SCALE_WORDS.get(word.casefold()) if len(word) > 1 or word in "kK百千천万萬만亿億억兆조" else SCALE_LETTERS.get(word)
        if word == "m" and currency:
            scale = 10**6
        if word.casefold() == "mm" and currency:
            scale = 10**6
        if scale is None:
            break
        factor, rest, words = factor * scale, rest[match.end() :], words + 1
    if words == 0 and (match := re.match(r"\s*((?:十|百|千)?[万萬만亿億억兆조]|万亿|[百千천])", rest)):
        factor, rest = SCALE_WORDS.get(match[1], 0), rest[match.end() :]
    return factor, rest


def _in_unit(value: Fraction, rest: str, currency: str, unit: str) -> Quantity | None:
    """The value with what follows the number, in the unit."""
    name = rest.strip().removeprefix("-").strip()
    if name.startswith("/") or (rest[:1] == "-" and not name[:1].isalpha()):
        return None
    if currency and name and name.casefold() not in (currency, f"{currency}s", "dollars", "euros", "pounds", "yen"):
        return None
    name = CURRENCY_SIGNS.get(name.casefold(), name) or currency
    if not name:
        return Quantity(value)
    if not unit:
        if name.casefold() in ("%", "percent", "per cent", "pct"):
            return Quantity(value / 100, percent=True)
        compound = _compound(value, rest, "")
        named = name in CURRENCY_CODES or is_counted(name, glued=not rest[:1].isspace())
        return compound or (Quantity(value, name) if named else None)
    result = converted(value, name, unit)
    return _compound(value, rest, unit) if result is None else Quantity(result, name)


def _compound(value: Fraction, rest: str, unit: str) -> Quantity | None:
    """A quantity in several units that add up, as in "1 h 30 min": each smaller than the one before, and less than one of it."""
    pieces, position = [], 0
    text = f"1 {rest.strip()}"
    while match := _PIECE.match(text, position):
        pieces.append((Fraction(match[1]), match[2].rstrip(".")))
        position = match.end()
    last = re.fullmatch(r"\s*(\d{1,2})", text[position:])
    if last and len(pieces) == 1 and pieces[0][1] in ("'", "h"):  # 5'10
        pieces.append((Fraction(last[1]), {"'": '"', "h": "min"}[pieces[0][1]]))
    elif position < len(text) or len(pieces) < 2 or len(pieces) > 4:
        return None
    pieces[0] = (value, pieces[0][1])
    if any(name in ("h", "hr", "hrs", "s") for _, name in pieces):
        pieces = [(amount, "minute" if name == "m" else name) for amount, name in pieces]
    unit = unit or pieces[0][1]
    total, size = Fraction(0), None
    for amount, name in pieces:
        one = converted(Fraction(1), name, unit)
        if one is None or one <= 0 or amount < 0 or (size is not None and amount * one >= size * Fraction(999999, 1000000)):
            return None
        total, size = total + amount * one, one
    return Quantity(total, unit)
