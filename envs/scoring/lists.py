"""The parts of a list, as people, models and programs write them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from envs.scoring.markup import unwrapped, without_latex

_NUMBERING = re.compile(r"^\s*(?:\(?\d{1,2}[.)]\s+|[-–•*‣▪●◦+]\s+|\(\d{1,2}\)\s*|[①-⑳]\s*)(?=\S)")
_BRACKETS = {"[": "]", "{": "}", "(": ")", "<": ">"}
_QUOTED = re.compile(r"""("(?:[^"\\]|\\.)*"|(?<![^\W_])'(?:[^'\\]|\\.)*'(?![^\W_])|“[^”]*”|「[^」]*」|《[^》]*》)""")
_WORDS = re.compile(r"\s*(?:,\s*)?(?<![^\W_])(?:and|und|et)(?![^\W_])\s*|\s*,?\s*&\s*|\s*(?:->|→|⇒|⟶)\s*", re.IGNORECASE)
_AND = re.compile(r"\A(?:and|&)\s+", re.IGNORECASE)
_STRONGEST = re.compile(r"[;；؛|\n]")
_COMMAS = re.compile(r"[、،，]|(?<!\d),|,(?!\d)")
_STRONG = re.compile(r"[;；、،؛|\n]|[,，]\s")
# Words for "and" that may also be part of a name: they divide only if a part is missing.
_OTHER_ANDS = [re.compile(r"以及|及|和|与|與|跟|と|および|그리고|및"), re.compile(r"(?<=\S)[와과]\s+|\s+(?:y|e|и|और)\s+|\s+و\s*")]


def parts(text: str, expected: int = 0) -> list[str]:
    """The parts of a list: between commas, semicolons, lines, arrows, `&` or "and", without brackets, quotes and numbering.

    A comma inside a number (1,234; 1,5) separates only if nothing else in the list does. Where semicolons or lines separate, commas
    and "and" belong to the parts. `expected` is the number of the truth's parts, 0 for the truth itself: separators are tried from
    the strongest on until there are so many parts; if one is missing, the last is divided at an "and" of another language.
    """
    text = re.sub(r"\\([{}])", r"\1", text)
    text = without_latex(unwrapped(text)).strip().rstrip("。").strip()
    text = re.sub(r"(?<=[\])}])\s*\.\Z", "", text)
    text = re.sub(r"(?i)\Aboth\s+(?=.*\band\b)", "", text)
    if encloses(text):
        text = text[1:-1].strip().rstrip(",")
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) > 1:
        text = "\n".join(_NUMBERING.sub("", line).strip().rstrip(",;.，；。") for line in lines)
        text = re.sub(r"(?i)\n(?:and|&)\s+", "\n", text)
    elif _is_numbered(text):
        text = re.sub(r"(?:^|\s*[,;]?\s+)\(?\d{1,2}[.)]\s+", "\n", text).strip()
    held: list[str] = []

    def hold(match: re.Match[str]) -> str:
        held.append(match[1][1:-1])
        return f"\0{len(held) - 1}\0"

    text = _QUOTED.sub(hold, text)
    found: list[str] = []
    for separator in (_STRONGEST, _COMMAS, _WORDS, None):
        if separator is None:
            found = _pieces(text)
        elif separator.search(text) and (expected or separator is _STRONGEST):
            found = [_AND.sub("", piece.strip()) for piece in separator.split(text)]
        else:
            continue
        found = [piece for piece in (piece.strip(" ,，") for piece in found) if piece]
        if len(found) == expected or (separator is _STRONGEST and not expected):
            break
    if len(found) == 1:
        found = [_NUMBERING.sub("", found[0])]
    found = [re.sub(r"\0(\d+)\0", lambda match: held[int(match[1])], part) for part in found]
    for other_and in _OTHER_ANDS:
        if found and len(found) == expected - 1 and len(last := other_and.split(found[-1])) == 2 and all(last):
            found[-1:] = last
    return found


def _pieces(text: str) -> list[str]:
    """The pieces between separators of any kind."""
    if _STRONG.search(text) or _WORDS.search(text):
        text = re.sub(r"(?<=\d),(?=\d)", "\1", text)
    pieces = re.sub(r"\s*[;；、،؛|,，\n]\s*", "\n", text)
    return [piece.replace("\1", ",") for piece in _WORDS.sub("\n", pieces).split("\n")]


def matched(rights: Sequence[Sequence[bool]], ordered: bool) -> bool:
    """Whether the parts of an answer are those of the truth: `rights[i][j]` says whether part i of it is part j of the truth."""
    if any(len(row) != len(rights) for row in rights):
        return False
    if ordered:
        return all(row[index] for index, row in enumerate(rights))
    owners: dict[int, int] = {}

    def assigned(index: int, tried: set[int]) -> bool:
        """Kuhn's algorithm: part `index` takes a part of the truth, whose owner takes another if it must."""
        for other, right in enumerate(rights[index]):
            if right and other not in tried:
                tried.add(other)
                if other not in owners or assigned(owners[other], tried):
                    owners[other] = index
                    return True
        return False

    return all(assigned(index, set()) for index in range(len(rights)))


def encloses(text: str) -> bool:
    """Whether a text's first character is a bracket that its last one closes."""
    if len(text) < 2 or _BRACKETS.get(text[0]) != text[-1]:
        return False
    depth = 0
    for index, character in enumerate(text):
        depth += (character in _BRACKETS) - (character in _BRACKETS.values())
        if depth == 0 and index < len(text) - 1:
            return False
    return True


def _is_numbered(text: str) -> bool:
    """Whether a line counts its parts: "1. Chad 2. Mali"."""
    numbers = [int(number) for number in re.findall(r"(?:^|\s)\(?(\d{1,2})[.)]\s+(?=\S)", text)]
    return len(numbers) > 1 and numbers == list(range(1, len(numbers) + 1)) and re.match(r"\(?1[.)]\s", text) is not None
