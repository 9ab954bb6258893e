"""What a prompt's tokens say: the messages that a chat template made them of. A record holds no other text of the question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from envs.errors import UsageError
from rollout.tokens.chat_format import ChatFormat, ChatMessage, Piece

_SYSTEM, _FIRST, _SECOND = "SYSTEM-TEXT", "FIRST-TEXT", "SECOND-TEXT"


@dataclass(frozen=True, slots=True)
class _Frame:
    """What a template writes around one text: pieces and plain text before it, plain text and pieces behind it."""

    head: list[Piece]
    prefix: str
    suffix: str
    tail: list[Piece]

    @classmethod
    def of(cls, pieces: Sequence[Piece], mark: str) -> _Frame:
        """The frame of the text `mark`. Raises StopIteration if it does not stand in the pieces."""
        place = next(place for place, piece in enumerate(pieces) if isinstance(piece, str) and mark in piece)
        before, _, after = str(pieces[place]).partition(mark)
        return cls(list(pieces[:place]), before, after, list(pieces[place + 1 :]))

    def inside(self, pieces: Sequence[Piece]) -> list[Piece] | None:
        """The pieces in this frame; None if the frame is not around them."""
        end = len(pieces) - len(self.tail)
        if end < len(self.head) or list(pieces[: len(self.head)]) != self.head or list(pieces[end:]) != self.tail:
            return None
        found = list(pieces[len(self.head) : end])
        if self.prefix:
            if not found or not isinstance(found[0], str) or not found[0].startswith(self.prefix):
                return None
            found[0] = found[0][len(self.prefix) :]
        if self.suffix:
            if not found or not isinstance(found[-1], str) or not found[-1].endswith(self.suffix):
                return None
            found[-1] = found[-1][: -len(self.suffix)]
        return found


class Prompts:
    """Reads the tokens of prompts back into messages, by what the chat template writes around the texts of each role."""

    def __init__(self, chat: ChatFormat) -> None:
        self._chat = chat
        self._user = _Frame.of(chat.prompt([ChatMessage("user", _FIRST)]), _FIRST)
        self._system = self._system_frame()
        self._results = self._results_frame()

    def messages(self, token_ids: Sequence[int]) -> list[tuple[str, str]] | None:
        """Role and text of the system prompt, if there is one, and of the question; None if the template wrote something else."""
        pieces = self._chat.pieces(token_ids)
        if self._system is not None:
            system, user = self._system
            place = len(system.head)
            rest = pieces[place + 1 :]
            first = pieces[place] if place < len(pieces) else None
            if pieces[:place] == system.head and isinstance(first, str) and first.startswith(system.prefix):
                text = first[len(system.prefix) :]
                inside = user.inside(rest)
                if inside is not None and text.endswith(system.suffix):
                    return [("system", text[: len(text) - len(system.suffix)]), ("user", _text(inside))]
        inside = self._user.inside(pieces)
        return None if inside is None else [("user", _text(inside))]

    def plain(self, token_ids: Sequence[int]) -> str:
        """All text of the tokens, whatever the template wrote around it."""
        return _text(self._chat.pieces(token_ids)).strip()

    def results(self, token_ids: Sequence[int], count: int) -> list[str] | None:
        """The texts of `count` messages of tools between two turns; None if they cannot be told apart."""
        if self._results is None:
            return None
        before, between, after = self._results
        text = _flat(self._chat.pieces(token_ids))
        end = _flat([self._chat.end_of_turn])
        for beginning in (before, before.removeprefix(end)):
            if text.startswith(beginning) and text.endswith(after):
                parts = text[len(beginning) : len(text) - len(after)].split(between)
                return parts if len(parts) == count else None
        return None

    def _system_frame(self) -> tuple[_Frame, _Frame] | None:
        try:
            pieces = self._chat.prompt([ChatMessage("system", _SYSTEM), ChatMessage("user", _FIRST)])
            system = _Frame.of(pieces, _SYSTEM)
            user = _Frame.of(system.tail, _FIRST)
        except (UsageError, StopIteration):  # the template puts a system prompt into the user's message, or takes none
            return None
        return system, user

    def _results_frame(self) -> tuple[str, str, str] | None:
        try:
            text = _flat(self._chat.continuation([ChatMessage("tool", _FIRST), ChatMessage("tool", _SECOND)]))
        except UsageError:
            return None
        before, first, rest = text.partition(_FIRST)
        between, second, after = rest.partition(_SECOND)
        return (before, between, after) if first and second and between else None


def _text(pieces: Sequence[Piece]) -> str:
    return "".join(piece for piece in pieces if isinstance(piece, str))


def _flat(pieces: Sequence[Piece]) -> str:
    """Pieces as one text, in which special tokens are numbers between NUL characters."""
    return "".join(piece if isinstance(piece, str) else f"\0{piece}\0" for piece in pieces)
