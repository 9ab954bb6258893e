"""Cuts texts for the index: into passages, and into words in scripts that write none.

Chinese, Japanese, Thai, Lao, Khmer and Burmese put no spaces between words, and Korean puts endings on them. Their text is indexed
as overlapping pieces of two characters (three, for those that are alphabets), and, for queries that are shorter, of one less: the
scheme of Lucene's CJKBigramFilter, which needs no dictionary.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterator

PASSAGE_WORDS = 120
_SLACK = 1.15  # sentences do not end where they should
_BY_PAIRS = (
    "\u1100-\u11ff\u3005-\u3007\u3031-\u3035\u3041-\u309f\u30a1-\u30fa\u30fc-\u30ff\u3105-\u318e\u31a0-\u31bf\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\ua960-\ua97c\uac00-\ud7fb\uf900-\ufaff\U00020000-\U0003ffff"
)
_BY_THREES = (
    "\u0e01-\u0e3a\u0e40-\u0e4e\u0e81-\u0ece\u0edc-\u0edf\u1000-\u103f\u104e-\u108f\u109a-\u109f\u1780-\u17d3\u17d7\u17dc-\u17dd"
)
_RUN = re.compile(f"([{_BY_PAIRS}]+)|([{_BY_THREES}]+)")
# Greek and Cyrillic accents, Arabic and Hebrew vowel signs: written or left out at will. The index folds Latin accents itself.
_SIGNS = re.compile("[\u0300-\u0345\u0591-\u05bd\u05bf-\u05c7\u0610-\u061a\u0640\u064b-\u065f\u0670]")
_ACCENTED = re.compile("[\u0370-\u03ff\u1f00-\u1fff\u0450\u0451\u045d\u0400\u0401\u040d]+")
_INVISIBLE = dict.fromkeys((0xAD, 0x200B, 0x200C, 0x200D, 0x200E, 0x200F, 0x2060, 0xFEFF)) | {0x130: "I"}  # lower-cased, İ is two
_SENTENCE_END = re.compile('(?:[.!?…](?=\\s)|\n(?=\n)|[。！？｡।॥؟۔።၊။៕]+[」』”’）】》"]*|[.!?]+[」』”’）】》]+)\\s*')
_CLAUSE_END = re.compile("(?<=[，、；：､])")


class _Letters(dict[int, int]):
    """Combining marks as letters, of Tangut, which is in no corpus: the index's tokenizer would cut words of Thai at its marks."""

    def __missing__(self, point: int) -> int:
        is_mark = unicodedata.category(chr(point))[0] == "M"
        self[point] = 0x17000 + (point & 0xFFF) if is_mark else point
        return self[point]


_LETTERS = _Letters()


def as_letters(text: str) -> str:
    """The text with a letter in the place of each combining mark, as it is indexed."""
    return text if text.isascii() else text.translate(_LETTERS)


def normalised(text: str) -> str:
    """The text composed, with digits 0 to 9, without invisible characters and the signs that may be left out."""
    if text.isascii():
        return text
    text = unicodedata.normalize("NFKC", text.translate(_INVISIBLE))
    text = _ACCENTED.sub(lambda found: unicodedata.normalize("NFD", found[0]), text)
    return re.sub(r"\d", lambda digit: str(unicodedata.decimal(digit[0])), _SIGNS.sub("", text))


def in_words(text: str) -> tuple[str, str]:
    """The words of a normalised text, and the pieces of one character less (empty if there are none); spaces divide them."""
    if text.isascii():
        return text, ""
    shorter: list[str] = []

    def pieces(found: re.Match[str]) -> str:
        run, length = found[0], 2 if found[1] else 3
        if len(run) >= length:
            shorter.extend(_windows(run, length - 1))
        return f" {' '.join(_windows(run, length))} "

    return as_letters(_RUN.sub(pieces, text)), as_letters(" ".join(shorter))


def _windows(run: str, length: int) -> Iterator[str]:
    for start in range(max(1, len(run) - length + 1)):
        yield run[start : start + length]


def passages(text: str, words: int = PASSAGE_WORDS) -> Iterator[str]:
    """A text in pieces of about `words` words that end where sentences do; a sentence longer than that is cut.

    In a script without spaces, two characters count as a word (three, in an alphabet), and the pieces are of like length: else
    BM25, which favours short texts, would prefer a rest to the piece that answers.
    """
    if text.isascii() and len(spaced := text.split()) <= words:  # most texts, and fast
        if spaced:
            yield " ".join(spaced)
        return
    sentences = [(sentence, gap, _length(sentence)) for sentence, gap in _sentences(text)]
    share = _share(text, sum(length for _, _, length in sentences), words)
    piece, size, gap, done, cut = "", 0.0, "", 0.0, 1
    for sentence, following_gap, length in sentences:
        if piece and (size + length > words or done + length / 2 > cut * share):
            yield piece
            piece, size, cut = "", 0.0, cut + 1
        done += length
        if length > words:
            *full, sentence = _cut(sentence, words)
            yield from full
            length, cut = _length(sentence), cut + len(full)
        piece, size, gap = f"{piece}{gap if piece else ''}{sentence}", size + length, following_gap
    if piece:
        yield piece


def _sentences(text: str) -> Iterator[tuple[str, str]]:
    """Each sentence with single spaces, and what divides it from the next."""
    start = 0
    for end in (*(found.end() for found in _SENTENCE_END.finditer(text)), len(text)):
        part, start = text[start:end], end
        if sentence := " ".join(part.split()):
            yield sentence, " " if part[-1].isspace() else ""


def _length(text: str) -> float:
    """The number of words in a text."""
    runs = [] if text.isascii() else _RUN.findall(text)
    if not runs:
        return len(text.split())
    others = sum(any(map(str.isalnum, word)) for word in _RUN.sub(" ", text).split())  # not the 。 between two runs
    return others + sum(len(pairs) / 2 + len(threes) / 3 for pairs, threes in runs)


def _cut(sentence: str, words: int) -> list[str]:
    """The sentence in pieces of like length and at most `words` words, cut at spaces, else after a comma, else anywhere."""
    parts = [(part, glue, _length(part)) for part, glue in _parts(sentence, words)]
    share = _share(sentence, sum(length for _, _, length in parts), words)
    pieces, size, done = [""], 0.0, 0.0
    for part, glue, length in parts:
        if pieces[-1] and (size + length > words or done + length / 2 > len(pieces) * share):
            pieces.append("")
            size = 0.0
        pieces[-1] += f"{glue if pieces[-1] else ''}{part}"
        size, done = size + length, done + length
    return pieces


def _share(text: str, length: float, words: int) -> float:
    """The length of a piece if all are equal and have at most `words` words; of a text with spaces, no limit."""
    return length / math.ceil(_SLACK * length / words) if length > words and _RUN.search(text) else math.inf


def _parts(sentence: str, words: int) -> Iterator[tuple[str, str]]:
    """Parts that are not longer than `words`, each with what divides it from the one before."""
    for word in sentence.split():
        glue = " "
        for clause in _CLAUSE_END.split(word) if _length(word) > words else (word,):
            step = len(clause) if _length(clause) <= words else 2 * words
            for start in range(0, len(clause), step or 1):
                yield clause[start : start + step], glue
                glue = ""
