"""Equal texts, as SQuAD's and Search-R1's exact match has them, but for codes: 007 is not 7, 1.10 is not 1.1, 1e3 is not 1000."""

from __future__ import annotations

import re
import unicodedata

from envs.scoring.markup import plain, unwrapped, without_latex
from envs.scoring.quantities.words import NUMBER_WORDS, ORDINALS, cardinal

_LETTERS = str.maketrans({"ø": "o", "ł": "l", "đ": "d", "ð": "d", "ı": "i", "æ": "ae", "œ": "oe"})
_OVERLAY = 1  # the class of the marks that strike a character out
_GROUPED = re.compile(r"[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?")
_GLUED = re.compile(r"(?<=\d) +(?=(?:[ap]m|km|cm|mm|m|kg|g|mg|l|ml|h|s|min|km/h|mph|ft|%|°[cf]?)(?![\w/^]))")
_ONE_SAYING = {"true": "yes", "false": "no"}
_YES_NO = re.compile(
    r"(yes|no)[,.;]? (?:it|he|she|they|there|this|that|you|we|i) (?:is|are|was|were|does|do|did|has|have|had|can|will)( not|n't)?"
)
_PAIR = re.compile(r"(?:\w+\s*(?:=|∈|in|is)\s*)?([\[(])[^,]+,[^,]+([\])])")
_MARKS = re.compile(r"""[.,;:!?"'()\[\]{}。、，；：！？।「」『』《》]""")


def exact(answer: str, truth: str) -> bool:
    """Whether the texts are equal after normalisation. What is left blank by it equals nothing.

    Without regard to case, articles, punctuation, digit grouping and a zero fraction, and a word for a number is the number.
    Accents count, but for an answer or a truth that has none. Anything else must agree: signs, currencies, digits, other marks.
    """
    given, expected = normalise(answer), normalise(truth)
    if not given or not expected or _other_interval(answer, truth) or _is_asked(answer, truth):
        return False
    given_forms, expected_forms = _forms(given), _forms(expected)
    if given_forms & expected_forms:
        return True
    bare_given, bare_expected = without_accents(given), without_accents(expected)
    return (given == bare_given or expected == bare_expected) and bool(_forms(bare_given) & _forms(bare_expected))


def normalise(text: str) -> str:
    """The words of a text that are compared, in lower case, between single spaces."""
    text = without_latex(unwrapped(text))
    if "_" in text and re.fullmatch(r"[A-Za-z\d()_{}]{2,40}", text) and not re.search(r"[a-z]{2}", text):
        text = re.sub(r"(?<=[A-Za-z)])_(?:(\d+)|\{(\d+)\})", r"\1\2", text)  # H_2O
    text = text.casefold()
    text = unicodedata.normalize("NFC", text)
    text = re.sub(r"(?<![\w.])([^\W\d_])\.\s+(?=[^\W\d_]\.)", r"\1.", text)  # J. K. Rowling
    text = re.sub(r"\s*&\s*", " and ", text)
    text = re.sub(r"(?<=\d)\s*([ap])\.\s?m\b\.?", r"\1m", text)
    text = _GLUED.sub("", " ".join(text.split()))
    if match := _YES_NO.fullmatch(text.rstrip(".!")):
        text = match[1] if (match[1] == "no") == bool(match[2]) else text
    words = [word for token in text.split() if (word := _word(token))]
    words = _counted(_without_articles(words))
    return _ONE_SAYING.get(words[0], words[0]) if len(words) == 1 else " ".join(words)


def without_accents(text: str) -> str:
    """The text with its Latin letters in their basic form; other scripts keep their marks, which distinguish their letters."""
    decomposed = unicodedata.normalize("NFD", text)
    kept, latin = [], False
    for character in decomposed:
        if combining := unicodedata.combining(character):
            if not latin or combining == _OVERLAY:
                kept.append(character)
        else:
            latin = character.isalpha() and character < "\u0250"
            kept.append(character)
    return unicodedata.normalize("NFC", "".join(kept)).translate(_LETTERS)


def _other_interval(answer: str, truth: str) -> bool:
    """Whether two pairs stand in other brackets: [1, 2) is not (1, 2)."""
    pairs = [_PAIR.fullmatch(unwrapped(text).rstrip(" .。!")) for text in (answer, truth)]
    return all(pairs) and len({(pair[1], pair[2]) for pair in pairs if pair}) == 2


def _is_asked(answer: str, truth: str) -> bool:
    """Whether an answer is a question, and so a guess: "Paris?"."""
    return "?" not in plain(truth) and re.search(r"[?؟]\W*\Z", plain(answer)) is not None


def _forms(text: str) -> set[str]:
    """The spellings of a text with hyphens between letters: well-known, well known, wellknown."""
    return {re.sub(r"(?<=[^\W\d])-(?=[^\W\d])", between, text) for between in ("", " ")}


def _word(token: str) -> str:
    """A word without punctuation. One with a digit is a number or a code: what stands inside it stays."""
    if "@" not in token and not any(character.isdigit() for character in token):
        return _MARKS.sub("", token).replace("\\", "")
    opening = len(token) - len(token.lstrip("\"'([{「『《"))
    token = token[opening:].rstrip(",;:。、，；：")
    # "5!" is a factorial, "5?" a guess, and 5'10" a length: these marks stay, a sentence's full stop goes.
    token = token.rstrip("\"')]}」』》" if opening else ")]}") if token.count("(") < token.count(")") or opening else token
    if token.endswith(".") and not re.fullmatch(r"\.+", token):
        token = token.rstrip(".")
    if _GROUPED.fullmatch(token.lstrip("+-$€£¥")):
        token = token.replace(",", "")
    return re.sub(r"(?<![\d.])(\d+)\.0+(?=$|%)", r"\1", token)


def _without_articles(words: list[str]) -> list[str]:
    if all(word == "the" for word in words):
        return words
    kept = [word for position, word in enumerate(words) if word != "the" or position == len(words) - 1]
    # "A" may be a letter: of a grade, of a type, of "A or B", of "A 380".
    if len(kept) > 1 and kept[0] in ("a", "an") and len(kept[1]) > 1 and not kept[1][0].isdigit() and kept[1] not in _NO_NOUNS:
        return kept[1:]
    return kept


_NO_NOUNS = frozenset(
    (
        "hundred",
        "thousand",
        "million",
        "billion",
        "dozen",
        "and",
        "or",
        "not",
        "but",
        "nor",
        "is",
        "was",
        "are",
        "vs",
        "plus",
        "minus",
        "then",
    )
)


def _counted(words: list[str]) -> list[str]:
    """The words with cardinals as digits and ordinals as "1st"."""
    counted: list[str] = []
    position = 0
    while position < len(words):
        runs = [parts for word in words[position : position + 12] for parts in [word.split("-")]]
        known = next((count for count, parts in enumerate(runs) if not _IN_NUMBERS.issuperset(parts)), len(runs))
        for count in range(known, 0, -1):
            value = cardinal([part for parts in runs[:count] for part in parts])
            if value is not None:
                counted.append(str(value))
                position += count
                break
        else:
            counted.append(ORDINALS.get(words[position], words[position]))
            position += 1
    return counted


_IN_NUMBERS = NUMBER_WORDS | {"and", "a", "an"}
