"""Mathematical answers, in LaTeX or plain text (`3√2`, `2x10^3`, `sqrt(8)`), as LaTeX that latex2sympy reads wholly."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from envs.scoring.markup import plain, unwrapped
from envs.scoring.quantities.counted import NOT_COUNTED
from envs.scoring.quantities.literals import leading
from envs.scoring.quantities.words import OTHER_SCALES, SCALE_WORDS

MAX_TOWER = 2
"""Exponents nested deeper than this are refused: no answer needs them, and their values fill any memory."""

_FUNCTIONS = "arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|cot|sec|csc|ln|log|exp|det|gcd|lcm|min|max|lim"
_GREEK = "alpha|beta|gamma|delta|epsilon|theta|lambda|mu|nu|phi|rho|sigma|tau|omega|pi|infty"
_NAMES = "infty times cdot cdot le ge ne pm cup cap in emptyset pi theta alpha beta gamma lambda mu phi omega sigma"
_SYMBOLS = {"÷": "/", "∛": r"\sqrt[3]", "√": r"\sqrt", "≈": r"\approx "} | {
    symbol: rf"\{name} " for symbol, name in zip("∞×·⋅≤≥≠±∪∩∈∅πθαβγλμφωσ", _NAMES.split(), strict=True)
}
_UNIT_WORDS = (
    "cm|mm|km|dm|kg|mg|ml|ft|mph|inch(?:es)?|in\\.|feet|foot|yards?|miles?|meters?|metres?|centimeters?|centimetres?|kilometers?|"
    "kilometres?|units?|degrees?|radians?|rad|dollars?|cents?|seconds?|minutes?|hours?|days?|weeks?|months?|years?|square|cubic|sq|"
    "people|students|points?|ways?|times|apples"
)
_UNIT = re.compile(
    rf"(?i)(?<=[\d}})\s])\s*((?:{_UNIT_WORDS})(?:\s+(?:{_UNIT_WORDS}|per|/))*(?:\s*/\s*\w+)?)"
    r"(?:\^?\{?([23])\}?)?\s*\Z"
)
_TEXT_UNIT = re.compile(
    r"\\(?:text|mathrm|mbox|textrm)\s*\{\s*([a-zA-Z°][a-zA-Z°/ .^23]*?)\s*\}(?:\^\{?([23])\}?)?"
    r"((?:[\s.$)\]\\}*_`\"”。]|</answer>|I hope it is correct)*)\Z"
)
_NO_UNITS = (NOT_COUNTED | OTHER_SCALES | SCALE_WORDS.keys()) - {"times", "on", "by", "per", "ft"}
_PLAIN_NUMBER = re.compile(r"[+-]?\s*(?:[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?|[^,]+)")


@dataclass(frozen=True, slots=True)
class Expression:
    """An answer ready to be parsed.

    `percent` says that it stood before a percent sign, `decimal` that it has a decimal point, `words` that it is no expression.
    `number` is the value of a plain number.
    """

    latex: str
    unit: str = ""
    percent: bool = False
    decimal: bool = False
    number: Fraction | None = None
    words: bool = False

    @property
    def is_refused(self) -> bool:
        """Whether it cannot be computed: a tower of powers, or two numbers side by side."""
        return _tower(self.latex) > MAX_TOWER or re.search(r"\d\s+\d|\d\s*_", self.latex) is not None


def expression(text: str, known: str = "") -> Expression:
    """The expression that a text is. Runs of letters that are no function's name are words, unless `known` has them too."""
    unit = ""
    if match := _TEXT_UNIT.search(text):
        before = text[: match.start()]
        if re.search(r"[\d})]\s*(?:\\[,;: ])?\s*\Z", before) and not _changes(match[1]):
            before = re.sub(r"\\[,;: ]\s*\Z", "", before)
            unit, text = match[1] + (match[2] or ""), before + match[3]
            text = _closed(text)
    text = unwrapped(text)
    if "~~" in text:  # struck out
        return Expression(text, words=True)
    text = _spaces(text)
    if not unit and (match := _UNIT.search(text)) and not re.search(r"(?i)\b(?:or|and)\s*\Z", text[: match.start()]):
        unit, text = match[1] + (match[2] or ""), text[: match.start()].strip()
    if not unit and (match := re.match(r"(\\?[$€£¥]|US\$)\s*(?=[\d.])", text)):
        unit, text = "dollars" if "$" in match[1] else match[1], text[match.end() :]
    if re.fullmatch(r"\{[^{},]+\}", text):
        text = text[1:-1]
    percent = re.search(r"\s*(?:\\?%|\bper ?cent)\Z", text)
    text = text[: percent.start()] if percent else text
    unit = re.sub(r"[\s.^]", "", unit).casefold().rstrip("s")
    decimal = "." in text
    if (number := _number(text)) is not None:
        latex = rf"\frac{{{number.numerator}}}{{{number.denominator}}}" if number.denominator != 1 else str(number)
        return Expression(latex, unit, bool(percent), decimal, number)
    latex = _rewritten(text)
    allowed = set(re.findall(r"[a-zA-Z]{3,}", known))
    runs = re.findall(r"[a-zA-Z]{3,}", re.sub(r"\\(?:begin|end)\{\w+\}|\\[a-zA-Z]+", " ", latex))
    words = any(run not in allowed for run in runs) or not re.search(r"[\w\\]", latex) or re.search(r"[^\x00-\x7f]", latex)
    return Expression(latex, unit, bool(percent), decimal, None, bool(words))


def _changes(unit: str) -> bool:
    """Whether what stands where a unit does scales the number, or takes it back: `5\\text{ million}`, `5\\text{ is wrong}`."""
    words = set(re.findall(r"[a-z]+", unit.casefold()))
    return not words.isdisjoint(_NO_UNITS) or unit in ("k", "B", "b")


def _number(text: str) -> Fraction | None:
    text = re.sub(r"\\[dt]?frac\{(\d+)\}\{(\d+)\}", r" \1/\2", text).replace(r"\times", "×").replace(r"\cdot", "×")
    text = re.sub(r"\^\{([+-]?\d+)\}", r"^\1", text).strip()
    if _PLAIN_NUMBER.fullmatch(text) is None:
        return None
    literal = leading(text)
    return literal.value if literal is not None and literal.end == len(text) else None


def _spaces(text: str) -> str:
    text = re.sub(r"(?<=\d)(?:\\[,!]|\{,\})(?=\d{3})", "", text)
    text = re.sub(r"\\(?:left|right|[bB]igg?[lr]?)(?![a-zA-Z])|\\(?:displaystyle|textstyle|limits)\b", "", text)
    text = re.sub(r"(?<!\\)\\[,;:! ]|\\q?quad\b|~", " ", text)
    text = re.sub(r"\A\s*(?:=|\\approx|\\sim|≈)\s*", "", text)
    return re.sub(r"(?<!\\)[.。]\s*\Z", "", " ".join(text.split())).strip()


def _rewritten(text: str) -> str:
    text = plain(text)
    for symbol, latex in _SYMBOLS.items():
        text = text.replace(symbol, latex)
    text = re.sub(r"\\[dtc]frac", r"\\frac", text).replace("**", "^").replace("<=", r"\le ").replace(">=", r"\ge ")
    text = re.sub(r"\\lt\b", "<", re.sub(r"\\gt\b", ">", text)).replace("!=", r"\ne ")
    text = _recurring(text.replace(r"\varnothing", r"\emptyset"))
    text = re.sub(r"\A\(\s*[a-zA-Z](?:\s*,\s*[a-zA-Z])+\s*\)\s*=\s*(?=\()", "", text)  # (x, y) = (1, 2)
    text = re.sub(r"(?<=\d)\s*[xX]\s*(?=10\s*\^)", r"\\times ", text)
    text = re.sub(r"(?<=\d)[eE]([+-]?\d+)(?![\w.])", r"\\times 10^{\1}", text)
    text = re.sub(r"(?<![\d/^.\w])(\d+)\s+(\d+)\s*/\s*(\d+)(?![\d/.])", r"(\1+\\frac{\2}{\3})", text)
    text = re.sub(r"(?i)\s*,?\s*(?<![a-z\\])(?:and|or)(?![a-z])\s*", ", ", text)
    text = re.sub(r"(?i)(?<![a-z\\])(?:infinity|inf|oo)(?![a-z])", r"\\infty ", text)
    text = re.sub(r"(?<![a-zA-Z\\])(?:sqrt)(?![a-zA-Z])", r"\\sqrt", text)
    text = re.sub(rf"(?<![a-zA-Z\\])({_FUNCTIONS}|{_GREEK})(?![a-zA-Z])", r"\\\1 ", text)
    text = re.sub(r"(?<![a-zA-Z\\])a(sin|cos|tan)(?![a-zA-Z])", r"\\arc\1 ", text)
    text = re.sub(r"\\frac\s*(\d)\s*(\d|\{)", lambda found: rf"\frac{{{found[1]}}}" + _argument(found[2]), text)
    text = re.sub(r"(\\frac\{[^{}]*\})\s*(\d)", r"\1{\2}", text)
    text = re.sub(r"_\s*(\d+|[a-zA-Z])", r"_{\1}", text)
    degrees = r"\\cdot\\frac{\\pi}{180}" if re.search(r"\\(?:sin|cos|tan|cot)", text) else ""
    text = re.sub(r"\^\s*\{?\s*\\circ\s*\}?|\\degree|°", degrees, text)
    text = re.sub(r"\\sqrt\s*(\[\d+\])?\s*(\d+(?:\.\d+)?|[a-zA-Z])", r"\\sqrt\1{\2}", text)
    text = _braced(_braced(text, r"\sqrt"), "^")
    text = re.sub(r"\^\s*([+-]?\s*\d+(?:\.\d+)?)", r"^{\1}", text)
    text = re.sub(r"\^\s*-\s*([a-zA-Z])", r"^{-\1}", text)
    return re.sub(r"\s+", " ", text.replace("*", r"\cdot ")).strip()


def _argument(text: str) -> str:
    return text if text == "{" else f"{{{text}}}"


def _braced(text: str, command: str) -> str:
    """The text with the parentheses after a command as braces: `\\sqrt(2)`, `^(n+1)`."""
    position = 0
    while match := re.compile(re.escape(command) + r"\s*\(").search(text, position):
        depth, end = 1, match.end()
        while end < len(text) and depth:
            depth += {"(": 1, ")": -1}.get(text[end], 0)
            end += 1
        position = match.end()
        if not depth:
            text = f"{text[: match.start()]}{command}{{{text[match.end() : end - 1]}}}{text[end:]}"
            position = match.start() + len(command)
    return text


def _recurring(text: str) -> str:
    """The text with recurring decimals as fractions: `0.\\overline{3}`."""

    def fraction(match: re.Match[str]) -> str:
        fixed, period = match[2], match[3]
        value = Fraction(int(match[1] + fixed + period) - int(match[1] + fixed), 10 ** len(fixed) * (10 ** len(period) - 1))
        return rf"\frac{{{value.numerator}}}{{{value.denominator}}}"

    return re.sub(r"(?<![\d.])(\d{1,20})\.(\d{0,20})\\overline\{(\d{1,20})\}", fraction, text)


def _closed(text: str) -> str:
    """The text without the opening marks of math mode and boxes that lost their end."""
    for opening, closing in (("$", "$"), (r"\(", r"\)"), (r"\[", r"\]")):
        if text.startswith(opening) and (text.count(opening) == 1 if opening == "$" else closing not in text):
            text = text[len(opening) :]
    return re.sub(r"\A\s*\\boxed\{(.*)\Z", r"\1", text) if text.count("{") > text.count("}") else text


def _tower(text: str) -> int:
    """How deeply exponents are nested; `9^9^9`, without braces, counts as too deep."""
    deepest, braces, closed_exponent, last = 0, [], False, ""
    for character in text.replace(" ", ""):
        if character == "^":
            deepest = max(deepest, sum(braces) + 1, MAX_TOWER + 1 if closed_exponent else 0)
        closed_exponent = False
        if character == "{":
            braces.append(last == "^")
        elif character == "}" and braces:
            closed_exponent = braces.pop()
        last = character
    return deepest
