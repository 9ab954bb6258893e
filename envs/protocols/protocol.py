"""The interface between what a model writes and what an environment does. A custom protocol is one subclass in one file."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from PIL import Image

from envs.protocols.actions import Action, Call, Malformed

Schema = Mapping[str, Any]
"""A tool as OpenAI's API describes a function: `{"type": "function", "function": {"name", "description", "parameters"}}`."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message that the environment adds to the conversation: a role of the chat template, text, and images in order."""

    role: str
    text: str
    images: tuple[Image.Image, ...] = ()


@dataclass(frozen=True, slots=True)
class ToolGuide:
    """The description of a tool for a model: its schema, and optionally a sentence that explains it in the protocol's terms."""

    schema: Schema
    instructions: str | None = None


class Protocol(ABC):
    """Reads a model's turns and writes what the model is shown.

    `stop` lists the texts after which generation ends: what follows the end of an action is never sampled, paid for or trained on.
    `tools_in_template` says that the tools are shown through the chat template's own `tools=`. `native` says that a model behind
    an endpoint speaks through the API's `tools` and `tool_calls`.
    """

    name: ClassVar[str]
    stop: tuple[str, ...] = ()
    tools_in_template: bool = False
    native: bool = False

    @abstractmethod
    def parse(self, text: str) -> Action:
        """Read one turn of the model, a `CutOff` if it was cut off. Never raises: text that cannot be read gives `Malformed` with
        the remedy."""

    @abstractmethod
    def is_well_formed(self, text: str) -> bool:
        """Whether a turn is exactly one action, with nothing but thoughts before it."""

    @abstractmethod
    def write(self, action: Action) -> str:
        """The inverse of `parse`: the text of a turn that takes `action`, for scripted experts and recorded calls."""

    @abstractmethod
    def instructions(self, tools: Sequence[ToolGuide]) -> str:
        """The system prompt that explains the protocol, and the tools, to a model that does not know them yet."""

    def results(self, calls: Sequence[Call], results: Sequence[tuple[str, tuple[Image.Image, ...]]]) -> list[Message]:
        """The messages that show the results of a turn's calls, as escaped text and images: here one user message for all."""
        texts = [text for text, _ in results]
        return [Message("user", "\n".join(texts), tuple(image for _, images in results for image in images))]

    def remedy(self, malformed: Malformed) -> Message:
        """The message that answers a turn which could not be read."""
        return Message("user", malformed.reason)

    def first_turn(self, text: str) -> str:
        """The text up to the end of its first whole turn, for models whose generation could not be stopped there."""
        begin = self.thoughts_end(text)
        ends = sorted({match.end() for end in self.stop for match in re.finditer(re.escape(end), text) if match.start() >= begin})
        return next((text[:end] for end in ends if self.ends_turn(text[:end])), text)

    def thoughts_end(self, text: str) -> int:
        """The index at which thoughts end if the chat template opened them and the text only closes them; else 0."""
        return 0

    def ends_turn(self, text: str) -> bool:
        """Whether `text`, which ends in one of `stop`, is a whole turn: not if that text stands in thoughts or inside an action."""
        return True
