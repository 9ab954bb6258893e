"""The rule for dates: what the truth names (day, month, year) must be named and equal; an ambiguous date is none."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date as Day

from envs.scoring.lists import encloses
from envs.scoring.markup import unwrapped, without_latex
from envs.scoring.quantities.words import ORDINALS, in_words
from envs.scoring.texts import exact, without_accents

_MONTHS: dict[str, int] = {}
for _names in (
    "january february march april may june july august september october november december",
    "jan feb mar apr may jun jul aug sep oct nov dec",
    "januar februar marz april mai juni juli august september oktober november dezember",
    "janvier fevrier mars avril mai juin juillet aout septembre octobre novembre decembre",
    "enero febrero marzo abril mayo junio julio agosto septiembre octubre noviembre diciembre",
    "gennaio febbraio marzo aprile maggio giugno luglio agosto settembre ottobre novembre dicembre",
    "janeiro fevereiro marco abril maio junho julho agosto setembro outubro novembro dezembro",
    "januari februari maart april mei juni juli augustus september oktober november december",
    "января февраля марта апреля мая июня июля августа сентября октября ноября декабря",
):
    _MONTHS |= {name: number for number, name in enumerate(_names.split(), start=1)}
_MONTHS |= {"sept": 9, "janner": 1, "maerz": 3, "juin": 6}
_ENGLISH_WEEKDAYS = "monday tuesday wednesday thursday friday saturday sunday"
_GERMAN_WEEKDAYS = "montag dienstag mittwoch donnerstag freitag samstag sonntag"
_WEEKDAYS: dict[str, int] = {name: number for number, name in enumerate(_ENGLISH_WEEKDAYS.split())}
_WEEKDAYS |= {name[:length]: number for name, number in list(_WEEKDAYS.items()) for length in (3, 4, 5) if length < len(name)}
_WEEKDAYS |= {name: number for number, name in enumerate(_GERMAN_WEEKDAYS.split())}
_WEEKDAYS |= {f"星期{name}": number for number, name in enumerate("一二三四五六日")}
_WEEKDAY = r"(?P<w>[^\W\d_]{3,10})\.?"
_WITH_WEEKDAY = [
    re.compile(rf"{_WEEKDAY},? (?:the |den )?(?P<rest>.*\d.*)"),
    re.compile(rf"(?P<rest>.*\d[^,]*?),? ?\(?{_WEEKDAY}\)?"),
]

_TIME = r"(?:[t ]\s*\d{1,2}:\d{2}(?::\d{2}(?:\.\d+)?)?(?:\s*z|[+-]\d{2}:?\d{2})?)?"
_DAY = r"(?P<d>\d{1,2})(?:st|nd|rd|th|er|º|°|\.)?"
_MONTH = r"(?P<b>[^\W\d_]{3,})\.?"
_YEAR = r"(?P<y>\d{4})"
_FORMS = [
    re.compile(pattern)
    for pattern in (
        r"(?P<y>\d{4})\. (?P<m>\d{1,2})\. (?P<d>\d{1,2})\.?",
        rf"(?P<y>\d{{4}})(?P<s>[-/.])(?P<m>\d{{1,2}})(?P=s)(?P<d>\d{{1,2}}){_TIME}",
        r"(?P<y>\d{4})(?P<m>0[1-9]|1[0-2])(?P<d>0[1-9]|[12]\d|3[01])",
        r"(?P<y>\d{4})[-/](?P<m>\d{1,2})",
        r"(?P<m>0?[1-9]|1[0-2])/(?P<y>\d{4})",
        r"(?:(?P<y>\d{3,4})\s*[年년]\s*)?(?P<m>\d{1,2})\s*[月월]\s*(?P<d>\d{1,2})\s*[日号일]",
        r"(?P<y>\d{3,4})\s*[年년](?:\s*(?P<m>\d{1,2})\s*[月월])?",
        rf"(?:the )?{_DAY} ?(?:(?:of|de|di|den) )?-?{_MONTH}"
        rf"(?:(?:,? | ?-|, ?|\.| ?/)(?:of |de |del |in )?{_YEAR})?(?: г\.?| года)?",
        rf"{_MONTH}(?: the)?(?: |-){_DAY}(?:(?:,? |-|, ?){_YEAR})?",
        rf"{_YEAR}[ ,-]+{_MONTH}[ -]{_DAY}",
        rf"{_MONTH}(?:,? |-|, ?)(?:of |de |del )?{_YEAR}",
        rf"{_MONTH}",
        r"(?P<m>\d{1,2})\s*[月월]",
        r"(?:(?:the )?year )?(?P<y>\d{4})",
        r"(?P<d>\d{1,2})(?P<dot>\.)\s?(?P<m>\d{1,2})\.\s?(?P<y>\d{4})",
        rf"(?P<one>\d{{1,2}})(?P<s>[-/])(?P<two>\d{{1,2}})(?P=s)(?P<y>\d{{4}}){_TIME}",
    )
]
_ERA = re.compile(r"(?:(ad|a\.d\.) )?(.*?)(?: ?(ad|a\.d\.|ce|c\.e\.|bc|b\.c\.|bce|b\.c\.e\.))?")


@dataclass(frozen=True, slots=True)
class _Date:
    year: int | None
    month: int | None
    day: int | None


def date(answer: str, truth: str) -> bool:
    """Whether the answer agrees in all that the truth names: year, month, day. It may name more, but not less.

    "3 May 2021" is "2021-05-03", and is right for "May 2021" and "2021". A weekday must be the date's. Numbers in an order that is
    not certain (03/05/2021) are no date; with full stops the day comes first.
    """
    expected, given = read(truth), read(answer)
    if expected is None or given is None:
        return exact(answer, truth)
    named = [(given.year, expected.year), (given.month, expected.month), (given.day, expected.day)]
    return all(mine == theirs for mine, theirs in named if theirs is not None)


def read(text: str) -> _Date | None:
    """The date that the whole text is; None if it is none, is ambiguous, or contradicts itself."""
    text = " ".join(without_accents(without_latex(unwrapped(text)).casefold()).split())
    text = re.sub(r"(?<=\))\.\Z", "", text).strip("[] ")
    text = text[1:-1] if encloses(text) else text
    text = re.sub(r"\A(?:the )?date(?: is|:) ", "", text)
    text = re.sub(r"[〇零一二三四五六七八九十]+(?=[年月日号])", lambda found: str(in_words(found[0]) or found[0]), text)
    text = re.sub(r"\A(?:on|in|am|le|el|il) (?=\S)", "", text).removesuffix("。")
    text = re.sub(r"[a-z]{5,8}(?= (?:of|day))|(?<= )[a-z]{5,8}(?=,? \d{4})", lambda found: ORDINALS.get(found[0], found[0]), text)
    weekday, text = _weekday(text)
    era = _ERA.fullmatch(text)
    before_christ = era is not None and (era[3] or "").startswith("b")
    if era is not None and (era[1] or era[3]):
        text = era[2]
        if re.fullmatch(r"\d{1,4}", text):
            text = text.zfill(4)
        text = re.sub(r"(?<= )(\d{1,3})\Z", lambda found: found[1].zfill(4), text)
    for candidate in (text, text.removesuffix(".")):
        for form in _FORMS:
            if (match := form.fullmatch(candidate)) and (found := _checked(match.groupdict(), weekday, before_christ)):
                return found
    return None


def _checked(fields: dict[str, str | None], weekday: int | None, before_christ: bool) -> _Date | None:
    """The date of a match, if there is such a day and only one."""
    numbers = {name: int(text) for name, text in fields.items() if text and name in ("y", "m", "d", "one", "two")}
    year, month, day = numbers.get("y"), numbers.get("m"), numbers.get("d")
    if name := fields.get("b"):
        month = _MONTHS.get(name)
        if month is None:
            return None
    if "one" in numbers:
        one, two = numbers["one"], numbers["two"]
        if one <= 12 and two <= 12 and one != two:
            return None
        day, month = (one, two) if one > 12 or one == two else (two, one)
    try:
        known = Day(year if year is not None and not before_christ else 2000, month or 1, day or 1)
    except ValueError:
        return None
    if weekday is not None and (None in (year, month, day) or before_christ or known.weekday() != weekday):
        return None
    return _Date(-year if year is not None and before_christ else year, month, day)


def _weekday(text: str) -> tuple[int | None, str]:
    """The weekday that a text begins or ends with, and the rest."""
    for pattern in _WITH_WEEKDAY:
        if (match := pattern.fullmatch(text)) and match["w"] in _WEEKDAYS:
            return _WEEKDAYS[match["w"]], match["rest"].strip()
    return None, text
