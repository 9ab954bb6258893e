"""Numbers in digits: signs, digit groups, decimal points and commas, powers of ten, fractions. The value is exact."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

MAX_EXPONENT = 400
"""Powers of ten beyond this are not read: their digits would fill the memory."""

_GROUPS = r"""
    [1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?            # 1,234.5
  | [1-9]\d?(?:,\d{2})+,\d{3}(?:\.\d+)?          # 1,00,000: Indian groups
  | [1-9]\d{0,2}(?:[ ]\d{3})+(?:[.,]\d+)?        # 1 234.5
  | [1-9]\d{0,2}(?:'\d{3})+(?:\.\d+)?            # 1'234.5
  | [1-9]\d{0,2}(?:_\d{3})+(?:\.\d+)?            # 1_234
  | [1-9]\d{0,2}(?:\.\d{3}){2,}(?:,\d+)?         # 1.234.567
  | [1-9]\d{0,2}(?:\.\d{3})+,\d+                 # 1.234,5
  | \d+(?:\.\d*)? | \.\d+
  | \d+,\d+                                      # 1,5: see `_decimal`
"""
_NUMBER = rf"(?:{_GROUPS})(?!\d|[.,]\d)"
_POWER = r"(?:[eE]([+-]?\d{1,6})(?![\w.])|\s*[x×*·]\s*10\s*(?:\^|\*\*)\s*\(?([+-]?\d{1,6})\)?(?![\w.]))"
LITERAL = re.compile(
    rf"""(?x)
    (?P<sign>[+-]?)\s*
    (?: (?P<ten>10\s*(?:\^|\*\*)\s*\(?(?P<tens>[+-]?\d{{1,6}})\)?(?![\w.]))
      | (?P<number>{_NUMBER})
        (?: (?P<power>{_POWER})
          | \s*/\s*(?P<below>[1-9]\d*)(?![\d/.,]\d|\d|/)
          | [ ]+(?:and[ ]+)?(?P<above>\d+)\s*/\s*(?P<under>[1-9]\d*)(?![\d/.,]\d|\d|/)   # 3 1/2
        )?
    )"""
)


@dataclass(frozen=True, slots=True)
class Literal:
    """A number at the beginning of a text; `end` is the index behind it."""

    value: Fraction
    end: int


def leading(text: str) -> Literal | None:
    """The number that a text begins with; None if there is none, or if how it is written is not understood."""
    match = LITERAL.match(text)
    if match is None:
        return None
    sign = -1 if match["sign"] == "-" else 1
    if match["ten"]:
        power = int(match["tens"])
        return None if abs(power) > MAX_EXPONENT else Literal(sign * Fraction(10) ** power, match.end())
    value = _decimal(match["number"])
    if value is None:
        return None
    if match["power"]:
        power = int(match[match.re.groupindex["power"] + 1] or match[match.re.groupindex["power"] + 2])
        if abs(power) > MAX_EXPONENT:
            return None
        value *= Fraction(10) ** power
    elif match["below"]:
        value /= int(match["below"])
    elif match["under"]:
        above, under = int(match["above"]), int(match["under"])
        if not match["number"].isdigit() or above >= under:
            return None
        value += Fraction(above, under)
    return Literal(sign * value, match.end())


def _decimal(number: str) -> Fraction | None:
    """A comma groups digits if all groups fit (1,234), else it is a decimal comma (1,5; 0,125; 1234,567)."""
    if len(number) > 320:
        return None
    number = re.sub("[ '_]", "", number)
    if re.fullmatch(r"\d{1,3}(?:\.\d{3})+,\d+|\d{1,3}(?:\.\d{3}){2,}", number):
        number = number.replace(".", "").replace(",", ".")
    elif re.fullmatch(r"[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?|[1-9]\d?(?:,\d{2})+,\d{3}(?:\.\d+)?", number):
        number = number.replace(",", "")
    elif number.count(",") == 1:
        number = number.replace(",", ".")
    return Fraction(number if number[0] != "." else f"0{number}") if not number.endswith(".") else Fraction(number[:-1])
