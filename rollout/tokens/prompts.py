"""What a prompt's tokens say: the messages that a chat template made them of. A record holds no other text of the question."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Self

import numpy as np

from envs.errors import UsageError
from rollout.tokens.chat_format import ChatFormat, ChatMessage, Piece
from rollout.tokens.images import EncodedImage, ImageEncoder
from rollout.tokens.policy_files import PolicyFiles
from rollout.types import Trajectory

_SYSTEM, _FIRST, _ACTION, _SECOND = "SYSTEM-TEXT", "FIRST-TEXT", "ACTION-TEXT", "SECOND-TEXT"
# Halves of surrogate pairs, which no text that a tokenizer decodes can hold.
_LEFT, _RIGHT = "\ud800", "\udfff"
_SPECIAL = re.compile(f"{_LEFT}(\\d+){_RIGHT}")


@dataclass(frozen=True, slots=True)
class PromptMessage:
    """A message of a prompt, and how many runs of image placeholders stand in it."""

    role: str
    text: str
    image_runs: int = 0


@dataclass(frozen=True, slots=True)
class _Mark:
    """What a template writes before a text of a role; `lead` is what follows it if there is no image, `image_lead` what stands
    between the last image and the text."""

    text: str
    role: str
    lead: str = ""
    image_lead: str = ""


class PromptReader:
    """Reads the tokens of prompts back into messages, by what the chat template writes before, between and behind their texts.

    Texts from outside never hold special tokens (`ChatFormat`), so that no text is taken for what stands between two messages: only
    what holds a special token is looked for there.
    """

    def __init__(self, chat: ChatFormat) -> None:
        self._chat = chat
        system, first, second = ChatMessage("system", _SYSTEM), ChatMessage("user", _FIRST), ChatMessage("user", _SECOND)
        action, tool = ChatMessage("assistant", _ACTION), ChatMessage("tool", _SECOND)
        between = [
            self._mark("user", [first, action, second], _ACTION),
            self._mark("user", [first, second], _FIRST),
            self._mark("user", [system, first], _SYSTEM),
            self._mark("assistant", [first, action, second], _FIRST),
            self._mark("tool", [first, action, tool], _ACTION),
        ]
        self._between: dict[str, _Mark] = {}
        for mark in between:
            if mark is not None and _SPECIAL.search(mark.text):
                self._between.setdefault(mark.text, mark)
        longest_first = sorted(map(re.escape, self._between), key=len, reverse=True)
        self._divides = re.compile(f"({'|'.join(longest_first)})" if longest_first else r"(?!)")
        # A system prompt before the user's message: some templates begin every prompt with one of their own.
        begins = [self._mark("system", [system, first], "") if between[2] is not None else None, self._mark("user", [first], "")]
        self._begins = [mark for mark in begins if mark is not None]
        self._end = self._around([first], _FIRST, "") or ""
        written = "".join((*self._between, *(mark.text for mark in self._begins), self._end))
        self._of_template = frozenset(_SPECIAL.findall(written))
        self._results = self._results_frame()

    @classmethod
    def from_directory(cls, directory: str | Path) -> Self:
        """The reader of the prompts of a policy in the Hugging Face layout. Raises UsageError, OSError or ValueError if its files
        cannot be read."""
        path = Path(directory)
        light = (path / "tokenizer.json").is_file()
        return cls(ChatFormat(PolicyFiles(path)) if light else ChatFormat.from_directory(path))

    def question(self, token_ids: Sequence[int]) -> str:
        """What the user said last, be it in several messages: the question of a prompt, which earlier turns and a system prompt may
        stand before. Of a prompt that another template wrote, the whole text."""
        messages = self._messages(token_ids)[0]
        last = next((place for place in reversed(range(len(messages))) if messages[place].role == "user"), None)
        if last is None:
            return self.plain(token_ids)
        first = last
        while first and messages[first - 1].role == "user":
            first -= 1
        return "\n".join(message.text.strip() for message in messages[first : last + 1])

    def messages(self, token_ids: Sequence[int]) -> list[PromptMessage] | None:
        """The messages of a prompt; None if the template wrote something else."""
        messages, known = self._messages(token_ids)
        return messages if known else None

    def plain(self, token_ids: Sequence[int]) -> str:
        """All text of the tokens, whatever the template wrote around it."""
        return "".join(piece for piece in self._chat.pieces(token_ids) if isinstance(piece, str)).strip()

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

    def _messages(self, token_ids: Sequence[int]) -> tuple[list[PromptMessage], bool]:
        """The messages as far as they can be told apart, and whether nothing else is in the prompt. What stands before the first
        one that is known has the role "": a template may write the date there."""
        text = _flat(self._chat.pieces(token_ids))
        known = bool(self._end) and text.endswith(self._end)
        body = text[: len(text) - len(self._end)] if known else text
        parts = [body]
        for begin in self._begins:
            if body.startswith(begin.text):
                parts = self._divides.split(body[len(begin.text) :])
                if begin.role == "user" or len(parts) > 1:
                    break
        else:
            begin, known = self._beginning(body), False
            parts = self._divides.split(body[len(begin.text) :])
        marks = [begin, *(self._between[text] for text in parts[1::2])]
        messages = [self._message(mark, shown) for mark, shown in zip(marks, parts[::2], strict=True)]
        # More than texts and images is what another template wrote.
        strange = any(self._of_template.intersection(_SPECIAL.findall(part)) for part in parts[::2])
        return messages, known and not strange

    def _beginning(self, body: str) -> _Mark:
        """The end of what stands between two messages, if another template, or one without its own system prompt, began so."""
        for mark in self._between.values():
            for special in _SPECIAL.finditer(mark.text):
                if body.startswith(mark.text[special.start() :]):
                    return replace(mark, text=mark.text[special.start() :])
        return _Mark("", "")

    def _message(self, mark: _Mark, text: str) -> PromptMessage:
        """The message of what stands behind a mark and before the next one."""
        divided = _SPECIAL.split(text)  # texts, and between them the ids of special tokens
        texts, ids = divided[::2], divided[1::2]
        # Between the parts of an image there is white space at most.
        shown = [one for one in texts[:-1] if not one.isspace()]
        last = texts[-1].removeprefix(mark.image_lead if ids else mark.lead)
        return PromptMessage(mark.role, "".join((*shown, last)), ids.count(str(self._chat.image_token)))

    def _mark(self, role: str, messages: Sequence[ChatMessage], behind: str) -> _Mark | None:
        """What the template writes before the first text of the message after the one with the text `behind`; None if it takes no
        such messages. If it writes something else before images, it is what both begin with."""
        place = next((place for place, message in enumerate(messages, 1) if message.text == behind), 0)
        asked = messages[place]
        text = self._around(messages, behind, asked.text)
        if text is None or role != "user":
            return None if text is None else _Mark(text, role)
        shown = [*messages[:place], replace(asked, images=(_image(),)), *messages[place + 1 :]]
        seen = self._around(shown, behind, asked.text)
        if seen is None:
            return _Mark(text, role)
        same = next((place for place, pair in enumerate(zip(text, seen, strict=False)) if pair[0] != pair[1]), len(text))
        common = text[:same]
        if common.rfind(_LEFT) > common.rfind(_RIGHT):
            common = common[: common.rfind(_LEFT)]
        last = _SPECIAL.split(seen[len(common) :])
        return _Mark(common, role, text[len(common) :], last[-1] if len(last) > 1 else "")

    def _around(self, messages: Sequence[ChatMessage], left: str, right: str) -> str | None:
        """What the template writes between two texts, or before or behind one if the other is ""; None if it takes no such
        messages, or writes a text twice or not at all."""
        try:
            text = _flat(self._chat.prompt(messages))
        except UsageError:
            return None
        if any(text.count(one) != 1 for one in (left, right) if one):
            return None
        begin = text.index(left) + len(left) if left else 0
        end = text.index(right) if right else len(text)
        return text[begin:end] if begin <= end else None

    def _results_frame(self) -> tuple[str, str, str] | None:
        try:
            text = _flat(self._chat.continuation([ChatMessage("tool", _FIRST), ChatMessage("tool", _SECOND)]))
        except UsageError:
            return None
        before, first, rest = text.partition(_FIRST)
        between, second, after = rest.partition(_SECOND)
        return (before, between, after) if first and second and between else None


class Questions:
    """Reads the question of an episode by the files of a policy's directory, which it opens at first use."""

    def __init__(self, policy_dir: str) -> None:
        self._policy_dir = policy_dir

    def __call__(self, episode: Trajectory) -> str:
        """The question, from the prompt's tokens. Raises as `PromptReader.from_directory`."""
        return self._reader.question(episode.token_ids[: episode.prompt_length])

    @cached_property
    def _reader(self) -> PromptReader:
        return PromptReader.from_directory(self._policy_dir)


@cache
def _image() -> EncodedImage:
    return ImageEncoder().encode(np.zeros((56, 56, 3), np.uint8))


def _flat(pieces: Sequence[Piece]) -> str:
    """Pieces as one text, in which special tokens are numbers between halves of surrogate pairs."""
    return "".join(piece if isinstance(piece, str) else f"{_LEFT}{piece}{_RIGHT}" for piece in pieces)
