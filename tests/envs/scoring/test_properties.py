"""No answer that a human would call wrong is right by a rule: different numbers, labels, dates and codes are never taken for each
other, however they are written; the same ones are, where the spelling is one of the kind. And no answer costs much time."""

from datetime import date, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.scoring import Kind, Scoring
from envs.scoring.rules import rule

LABELS = "ABCDEFGH"
COLOURS = ("red", "green", "blue", "yellow", "black", "white", "brown", "pink")
CHOICE = Scoring(Kind.CHOICE, options=tuple(zip(LABELS, COLOURS, strict=True)))
WRAPPERS = ["{}", "**{}**", r"\boxed{{{}}}", "The answer is {}.", "`{}`", "Final answer: {}", "“{}”", " {}.", r"\text{{{}}}"]
WRAPPER = st.sampled_from(WRAPPERS)

# Each writes a whole number, and the number that a reader takes it for may not be another whole number.
NUMBER_SPELLINGS = [
    "{n}", "{n:,}", "{n}.0", "{n}.00", "+{n}",
    "{n} apples", "{n}个", "{n}e0", "{n}E+0", "{n} × 10^0", "x = {n}", "= {n}",
    "about {n}", "there are {n} dogs", "{n}/1", "{n} m", "{n} km", "${n}", "{n} USD", "{n}%", "{n}k", "{n}K", "{n}M", "{n} million",
    "{n} hundred", "{n}万", "{n}亿", "{n} lakh", "{n} dozen", "{n}-{n}", "{n} or more", "not {n}", "-{n}",
    "{n}!", "{n}²", "√{n}", "1/{n}",
    "{n} or 0", "{n}, 0", "between {n} and {n}", "{n} of {n}", "{n}^2", "{n}x", "{n}:{n}", "{n}.5", "{n},5", "{n} 1/2", "0.{n}",
    "{n} tens", "{n} thousandths", "{n}bn", "{n} minus 1", "{n} + 1", "{n} squared", "less than {n}", "{n}+", "~{n}", "{n} ± 1",
]  # fmt: skip
READ_WITH_VALUE = {
    "{n}k": 10**3, "{n}K": 10**3, "{n}M": 10**6, "{n} million": 10**6, "{n} hundred": 100, "{n}万": 10**4, "{n}亿": 10**8,
    "{n} lakh": 10**5, "{n} dozen": 12, "{n}bn": 10**9,
}  # fmt: skip
HEDGES = {
    "{n}-{n}", "{n} or more", "not {n}", "-{n}", "{n}!", "{n}²", "√{n}", "1/{n}", "{n} or 0", "{n}, 0",
    "between {n} and {n}", "{n} of {n}",
    "{n}^2", "{n}x", "{n}:{n}", "{n}.5", "{n},5", "{n} 1/2", "0.{n}", "{n} tens", "{n} thousandths",
    "{n} minus 1", "{n} + 1", "{n} squared",
    "less than {n}", "{n}+", "{n} ± 1", *READ_WITH_VALUE,
}  # fmt: skip
NUMBERS = st.integers(2, 10**7)


def near(number):
    """Numbers that are easily taken for another: neighbours, other signs, digits dropped, swapped or added, other powers of ten."""
    text = str(number)
    others = {
        number + 1,
        number - 1,
        -number,
        number * 10,
        number * 100,
        number * 1000,
        int(text[:-1] or "0"),
        int(text[1:] or "0"),
    }
    return sorted((others | {int(text[::-1]), int(text + text[-1]), int(text.replace("0", "") or "0")}) - {number})


@settings(max_examples=25)
@given(number=NUMBERS, data=st.data(), wrapper=WRAPPER)
def test_different_whole_numbers_are_never_the_same_number(number, data, wrapper):
    other = data.draw(st.sampled_from(near(number)))
    for spelling in NUMBER_SPELLINGS:
        same = other * READ_WITH_VALUE.get(spelling, 1) == number or (spelling, other) in (
            ("-{n}", -number),
            ("{n}%", 100 * number),
        )
        if same or (spelling in ("{n}²", "{n}^2") and other == 10):  # powers of ten are read
            continue
        answer = wrapper.format(spelling.format(n=other))
        assert not rule(Kind.NUMBER, answer, str(number), Scoring(Kind.NUMBER)), answer


@settings(max_examples=25)
@given(number=NUMBERS, wrapper=WRAPPER)
def test_a_spelling_is_read_with_its_value_or_refused(number, wrapper):
    for spelling in NUMBER_SPELLINGS:
        answer = wrapper.format(spelling.format(n=number))
        assert rule(Kind.NUMBER, answer, str(number), Scoring(Kind.NUMBER)) is (spelling not in HEDGES), answer
        if spelling in READ_WITH_VALUE:
            assert rule(Kind.NUMBER, answer, str(number * READ_WITH_VALUE[spelling]), Scoring(Kind.NUMBER)), answer


# Signs, separators and zeros make another code.
CODE_CHANGES = [
    lambda code: "0" + code, lambda code: code + "0", lambda code: code.replace("-", ""), lambda code: code.replace("-", "."),
    lambda code: "-" + code, lambda code: code + "-", lambda code: code.replace(".", ""), lambda code: code.lstrip("0"),
    lambda code: code.rstrip("0"), lambda code: code[::-1], lambda code: code + "e0", lambda code: code + ".1",
    lambda code: "+" + code,
    lambda code: code.replace("0", "o"), lambda code: code + "%", lambda code: "$" + code, lambda code: code + " or " + code,
    lambda code: "not " + code, lambda code: code + "/2", lambda code: code.replace("1", "2"), lambda code: code[:-1],
    lambda code: code + "k", lambda code: code + "²", lambda code: "v" + code, lambda code: code.replace("-", "/"),
]  # fmt: skip


@settings(max_examples=60)
@given(
    code=st.from_regex(
        r"\A(?:0[0-9]{1,5}|[0-9]{2,3}-[0-9]{2,4}|[0-9]\.[1-9]{1,2}0|[0-9]\.[1-9]\.[0-9]|[1-9]e[0-9]|[A-Z]{1,2}-?[0-9]{2,3})\Z"
    ),
    wrapper=WRAPPER,
)
def test_different_codes_are_never_equal(code, wrapper):
    for change in CODE_CHANGES:
        other = change(code)
        if other and other != code:
            for kind in (Kind.EXACT, Kind.LIST):
                assert not rule(kind, wrapper.format(other), code, Scoring(kind)), other
    assert rule(Kind.EXACT, wrapper.format(code), code, Scoring())


LABEL_SPELLINGS = [
    "{a}", "({a})", "{a}.", "{a})", "[{a}]", "{a}:", "{a} {t}", "{a}. {t}", "({a}) {t}", "{a}: {t}",
    "{a}, {t}", "{a} - {t}", "{t}", "{t} ({a})",
    "option {a}", "choice {a}", "answer {a}", "the correct answer is {a}", "{a} is correct", "I choose {a}",
    "选{a}", "the {t}", "The option is {a}",
]  # fmt: skip
LABEL_HEDGES = [
    "{a} or {b}", "{a} and {b}", "{a}, {b}", "{a}{b}", "{a}/{b}", "{b} is wrong; it is {a}", "not {a}",
    "{a}. {u}", "({a}) {u}", "{t} ({b})",
    "{u} ({a})", "maybe {a}, maybe {b}", "maybe {a}", "{a} is wrong", "{a}, not {b}", "{t} or {u}",
    "either {a} or {b}", "{a}?", "{a} {b}",
    "{b}: {t}", "neither {a}", "{a} if not {b}", "{t} and {u}", "all but {a}", "{a} ({b})",
]  # fmt: skip


@settings(max_examples=25)
@given(pair=st.permutations(range(8)), wrapper=WRAPPER)
def test_a_label_is_taken_for_no_other(pair, wrapper):
    (a, t), (b, u) = ((LABELS[index], COLOURS[index]) for index in pair[:2])
    for spelling in LABEL_SPELLINGS:
        answer = wrapper.format(spelling.format(a=a, t=t))
        assert rule(Kind.CHOICE, answer, a, CHOICE), answer
        assert not rule(Kind.CHOICE, answer, b, CHOICE), answer
        assert not rule(Kind.CHOICE, answer, f"{a}, {b}", CHOICE), answer
    for spelling in LABEL_HEDGES:
        answer = wrapper.format(spelling.format(a=a, b=b, t=t, u=u))
        assert not rule(Kind.CHOICE, answer, a, CHOICE), answer
        assert not rule(Kind.CHOICE, answer, b, CHOICE), answer


def date_spellings(day):
    month, ending = f"{day:%B}", {1: "st", 2: "nd", 3: "rd", 21: "st", 22: "nd", 23: "rd", 31: "st"}.get(day.day, "th")
    return [
        day.isoformat(), f"{day:%Y/%m/%d}", f"{day:%Y%m%d}", f"{day:%Y.%m.%d}", f"{day.day} {month} {day.year}",
        f"{month} {day.day}, {day.year}",
        f"{month} {day.day}{ending}, {day.year}", f"the {day.day}{ending} of {month}, {day.year}", f"{day:%d-%b-%Y}",
        f"{day:%b} {day.day} {day.year}",
        f"{day:%A}, {day.day} {month} {day.year}", f"{month} {day.day}, {day.year} ({day:%A})",
        f"{day.year}年{day.month}月{day.day}日",
        f"{day.day}.{day.month}.{day.year}", f"{day.isoformat()} 00:00:00", f"{day.isoformat()}T00:00:00Z",
        f"on {month} {day.day}, {day.year}",
    ]  # fmt: skip


DATE_HEDGES = [
    "{a} or {b}",
    "{a}, {b}",
    "not {a}",
    "before {a}",
    "{a} to {b}",
    "{a} and {b}",
    "circa {a}",
    "{a} ({b})",
    "{a}?",
    "{a} - {b}",
]


@settings(max_examples=25)
@given(
    day=st.dates(date(1000, 1, 1), date(2999, 12, 1)),
    shift=st.sampled_from([1, -1, 7, 30, 31, 365, 366, 3653, -29]),
    wrapper=WRAPPER,
)
def test_a_date_is_taken_for_no_other(day, shift, wrapper):
    other = day + timedelta(days=shift)
    for mine, theirs in zip(date_spellings(day), date_spellings(other), strict=True):
        assert rule(Kind.DATE, wrapper.format(mine), day.isoformat(), Scoring(Kind.DATE)), mine
        assert not rule(Kind.DATE, wrapper.format(theirs), day.isoformat(), Scoring(Kind.DATE)), theirs
    for hedge in DATE_HEDGES:
        answer = wrapper.format(hedge.format(a=day.isoformat(), b=other.isoformat()))
        assert not rule(Kind.DATE, answer, day.isoformat(), Scoring(Kind.DATE)), answer


LONG = [
    *"*_`$\\{}()[]\"' \n-1a,^&;|~#>½²万１\0\ud800", "1,", "1 ", "1.", "a ", "a,", "and ", "^{", r"\\boxed{", r"\\text{",
    r"\\frac{", "**",
    "the ", "one ", "1/", "1e", "5 m ", "(A) ", "<answer>", '{"answer": ', r"\\left(", "May ", "x = ", "1'",
    "$$", r"\\(", "_a", "*a", "a.",
    "it is ", "the answer is ", "- ", "1) ", r"\\sqrt", "9^", "9^{9",
]  # fmt: skip
TRUTHS = {Kind.EXACT: "seven", Kind.NUMBER: "7 km", Kind.CHOICE: "A, C", Kind.LIST: "a, b", Kind.DATE: "2021-05-03"}


@pytest.mark.parametrize("kind", TRUTHS)
def test_an_answer_of_many_equal_pieces_is_soon_wrong(kind):
    scoring = CHOICE if kind is Kind.CHOICE else Scoring(kind)
    for piece in LONG:
        for answer in (
            (piece * 299)[:299],
            ("5" + piece * 299)[:299],
            ("x" + piece * 298)[:298] + "x",
            ("May 5 " + piece * 299)[:299],
        ):
            assert not rule(kind, answer, TRUTHS[kind], scoring), answer
