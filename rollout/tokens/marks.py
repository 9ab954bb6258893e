"""Texts from outside that read like special tokens, kept from becoming them: marks stand for them while a chat template renders."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any


class Marks:
    """Marks for the special tokens in some texts: `hide` puts them in, `restore` puts the texts back.

    A mark is a number between two characters of Unicode's private use area that none of the texts has. `special` matches the
    `tokens`.
    """

    def __init__(self, special: re.Pattern[str], tokens: Sequence[str], texts: Sequence[str]) -> None:
        self._special, self._tokens, self._mark = special, tokens, None
        if any(special.search(text) for text in texts):
            used = set().union(*texts)
            self._left, self._right = islice((chr(code) for code in range(0xE000, 0xF8FF) if chr(code) not in used), 2)
            self._number = {token: place for place, token in enumerate(tokens)}
            # A template may write tools as JSON in ASCII.
            left, right = (rf"(?:{each}|\\u{ord(each):04x})" for each in (self._left, self._right))
            self._mark = re.compile(rf"{left}(\d+){right}")

    def hide(self, value: Any) -> Any:
        """A text, or a value as JSON has them with its keys, with a mark in place of each special token."""
        if self._mark is None:
            return value
        if isinstance(value, str):
            return self._special.sub(lambda match: f"{self._left}{self._number[match.group()]}{self._right}", value)
        if isinstance(value, Mapping):
            return {self.hide(key): self.hide(each) for key, each in value.items()}
        return [self.hide(each) for each in value] if isinstance(value, list | tuple) else value

    def restore(self, text: str) -> str:
        """The text with each special token in place of its mark."""
        return text if self._mark is None else self._mark.sub(lambda match: self._tokens[int(match.group(1))], text)


def texts_in(value: Any) -> Iterator[str]:
    """All texts of a value as JSON has them, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, each in value.items():
            yield from texts_in(key)
            yield from texts_in(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from texts_in(each)
