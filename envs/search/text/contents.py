"""Reads `contents`, the field in which Pyserini's, FlashRAG's and Search-R1's corpora hold a title and a text together."""

from __future__ import annotations

_MOST_TITLE_CHARACTERS = 120
_SENTENCE_ENDS = tuple(".!?,;:。！？，।")
_QUOTES = {'"': '"', "“": "”", "「": "」", "『": "』"}


def title_and_text(contents: str) -> tuple[str, str]:
    """The title and the text: the first line is a title if it is in quotes, or short and not a sentence, and a text follows it.

    Nothing is lost: what is not the title is the text.
    """
    first, _, rest = contents.strip().partition("\n")
    first, rest = first.strip(), rest.strip()
    if not rest:
        return "", contents.strip()
    if len(first) > 1 and _QUOTES.get(first[0]) == first[-1]:
        return first[1:-1].strip(), rest
    if len(first) <= _MOST_TITLE_CHARACTERS and not first.endswith(_SENTENCE_ENDS):
        return first, rest
    return "", contents.strip()
