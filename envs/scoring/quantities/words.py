"""Numbers in words: English cardinals, ordinals and fractions, Chinese numerals, and the words and letters that scale a number."""

from __future__ import annotations

import re
from fractions import Fraction

_UNITS = "zero one two three four five six seven eight nine ten"
_TEENS = "eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen"
_DECADES = "twenty thirty forty fifty sixty seventy eighty ninety"
_ORDINALS = "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth"
_SMALL: dict[str, int] = {word: value for value, word in enumerate((*_UNITS.split(), *_TEENS.split()))}
_TENS: dict[str, int] = {word: 10 * value for value, word in enumerate(_DECADES.split(), start=2)}
_TENS |= {"fourty": 40}
_SCALES = {"hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12, "quadrillion": 10**15}
_SCALES |= {"lakh": 10**5, "lac": 10**5, "crore": 10**7, "dozen": 12}
_PARTS = {"half": 2, "halves": 2, "third": 3, "thirds": 3, "quarter": 4, "quarters": 4, "fourth": 4, "fourths": 4}
_PARTS |= {"fifth": 5, "fifths": 5, "sixth": 6, "sixths": 6, "eighth": 8, "eighths": 8, "tenth": 10, "tenths": 10}

SCALE_WORDS: dict[str, int] = {
    **{word + ending: value for word, value in _SCALES.items() for ending in ("", "s")},
    **dict.fromkeys(("k", "tsd", "тыс"), 10**3),
    **dict.fromkeys(("mio", "mln", "mn", "mil.", "millionen", "millones", "milhões", "milioni", "млн", "백만", "百万"), 10**6),
    **dict.fromkeys(("bn", "bln", "mrd", "md", "milliarde", "milliarden", "milliards", "miliardi", "млрд"), 10**9),
    **dict.fromkeys(("tn", "trn", "billionen"), 10**12),
    **dict.fromkeys(("lakhs", "lacs", "लाख"), 10**5),
    **dict.fromkeys(("cr", "crores", "करोड़"), 10**7),
    **dict.fromkeys(("百",), 100),
    **dict.fromkeys(("千", "천"), 10**3),
    **dict.fromkeys(("万", "萬", "만"), 10**4),
    **dict.fromkeys(("亿", "億", "억"), 10**8),
    **dict.fromkeys(("兆", "조"), 10**12),
    **dict.fromkeys(("十万",), 10**5),
    **dict.fromkeys(("千万", "千萬", "천만"), 10**7),
    **dict.fromkeys(("百亿",), 10**10),
    **dict.fromkeys(("万亿",), 10**12),
}
"""Words after digits that multiply them, in lower case, with a full stop or without."""
SCALE_LETTERS = {"M": 10**6, "B": 10**9, "b": 10**9, "K": 10**3, "T": 10**12}
"""Letters after digits that multiply them. "m" is among them only after a currency: it is also metre and minute."""
_UNREAD = (
    "mil pair pairs couple couples score scores gross myriad tens ones half halves third thirds quarter quarters kilo mega giga "
    "quintillion quintillions percentile percentiles point percentage pp bp bps basis mm ppm ppb milliard kk "
    "hundredth hundredths thousandth thousandths millionth millionths ninths sevenths seventh ninth"
)
OTHER_SCALES = frozenset((*_UNREAD.split(), *_PARTS))
"""Words after a number that change its value and are not read: a number before one of them is refused."""

_CHINESE_DIGITS = {character: value for value, character in enumerate("零一二三四五六七八九")} | {"〇": 0, "两": 2, "兩": 2}
_CHINESE_UNITS = {"十": 10, "百": 100, "千": 1000}
_CHINESE_SCALES = {"万": 10**4, "萬": 10**4, "亿": 10**8, "億": 10**8}
CHINESE_NUMERALS = frozenset(_CHINESE_DIGITS | _CHINESE_UNITS | _CHINESE_SCALES) | frozenset("半几幾多余数")

ORDINALS = {
    word: f"{value}{('th', 'st', 'nd', 'rd')[value] if value < 4 else 'th'}"
    for value, word in enumerate(_ORDINALS.split(), start=1)
}
"""Ordinal words and how they are written with digits."""

NUMBER_WORDS = frozenset(_SMALL | _TENS | _SCALES | _PARTS) | {word + "s" for word in _SCALES}


def cardinal(words: list[str]) -> int | None:
    """The value of words in lower case, such as `["two", "hundred", "and", "five"]`; None if they are no number."""
    total, group, last = 0, 0, ""
    largest = None
    for position, word in enumerate(words):
        if word in ("a", "an") and position == 0 and len(words) > 1 and words[1] in _SCALES:
            group = 1
        elif word in _SMALL or word in _TENS:
            value = _SMALL.get(word, _TENS.get(word, 0))
            # "one two" is no number, nor is "twenty eleven".
            if last in _SMALL or (last in _TENS and not 0 < value < 10) or (word == "zero" and len(words) > 1):
                return None
            group += value
        elif word in ("hundred", "dozen"):
            if not 0 < group < 100 or last in ("hundred", "and"):
                return None
            group *= _SCALES[word]
        elif word in _SCALES:
            if not group or last == "and" or (largest is not None and _SCALES[word] >= largest):
                return None
            total, group, largest = total + group * _SCALES[word], 0, _SCALES[word]
        elif word == "and":
            if last not in _SCALES or position == len(words) - 1:
                return None
        else:
            return None
        last = word
    return total + group if words and last != "and" else None


def in_words(text: str) -> Fraction | None:
    """The number that a text in lower case spells: "twenty-one", "two and a half", "three quarters", "one point five", "三十五"."""
    if (chinese := _chinese_fraction(text)) is not None:
        return chinese
    words = re.findall(r"[a-z]+", text)
    if not words or re.fullmatch(r"[a-z]+(?:[ -][a-z]+)*", text) is None or len(words) > 24:
        return None
    if words[0] in ("minus", "negative"):
        value = in_words(" ".join(words[1:]))
        return None if value is None or words[1:2] == words[:1] else -value
    if "point" in words and words[-1] not in _SCALES:
        split = words.index("point")
        whole, digits = cardinal(words[:split]), [_SMALL.get(word, 10) for word in words[split + 1 :]]
        return Fraction(f"{whole}.{''.join(map(str, digits))}") if whole is not None and digits and max(digits) < 10 else None
    if words[-1] in _SCALES and ("point" in words or ("and" in words and words[-2] in _PARTS)):  # "two and a half million"
        value = in_words(" ".join(words[:-1]))
        return None if value is None else value * _SCALES[words[-1]]
    if words[:3] in (["half", "a", "dozen"], ["half", "a", "million"], ["half", "a", "billion"]) and len(words) == 3:
        return Fraction(_SCALES[words[2]], 2)
    if words[-1] not in _PARTS:
        value = cardinal(words)
        return None if value is None else Fraction(value)
    count, parts = words[-2:-1], _PARTS[words[-1]]
    if count and count[0] in ("a", "an", *_SMALL):
        numerator = _SMALL.get(count[0], 1)
        if numerator and (numerator == 1) == (not words[-1].endswith("s")):
            whole = cardinal(words[:-3]) if words[-3:-2] == ["and"] else 0 if len(words) == 2 else None
            return None if whole is None or numerator >= parts else whole + Fraction(numerator, parts)
    return Fraction(1, parts) if words == ["half"] else None


def _chinese_fraction(text: str) -> Fraction | None:
    """The value of a numeral that may have a decimal part (一点五) or be a fraction (三分之一, 百分之五十)."""
    below, fraction, above = text.partition("分之")
    if fraction:
        parts, count = _chinese(below), _chinese(above)
        return Fraction(count, parts) if parts and count is not None else None
    whole, point, decimals = text.replace("點", "点").partition("点")
    value = _chinese(whole)
    if not point or value is None:
        return None if value is None or point else Fraction(value)
    if not decimals or any(character not in _CHINESE_DIGITS for character in decimals):
        return None
    return value + Fraction(_chinese(decimals) or 0, 10 ** len(decimals))


def _chinese(text: str) -> int | None:
    """The value of a numeral such as 三万五千 or 二〇二一, None if the text is not wholly one."""
    if not text or any(character not in _CHINESE_DIGITS | _CHINESE_UNITS | _CHINESE_SCALES for character in text):
        return None
    if all(character in _CHINESE_DIGITS for character in text):
        return int("".join(str(_CHINESE_DIGITS[character]) for character in text))
    total, section, digit, unit = 0, 0, None, 10**4
    largest = 10**12
    for character in text:
        if character in _CHINESE_DIGITS:
            if digit:
                return None
            digit = _CHINESE_DIGITS[character]
        elif character in _CHINESE_UNITS:
            if _CHINESE_UNITS[character] >= unit or digit == 0:
                return None
            unit = _CHINESE_UNITS[character]
            section, digit = section + (1 if digit is None else digit) * unit, None
        else:
            scale = _CHINESE_SCALES[character]
            section += digit or 0
            if scale >= largest or not section:
                return None
            total, section, digit, unit, largest = total + section * scale, 0, None, 10**4, scale
    # 一百五 is 150 in speech and 105 to a careless reader.
    return None if digit and unit in (100, 1000) and "零" not in text and "〇" not in text else total + section + (digit or 0)
