"""A demonstration as a row of a file: what the student is shown and what it is to write, in no policy's tokens yet.

A row has OpenAI's `messages`, without a system prompt, exactly as the environment and the student's protocol write them, with their
images as files; `protocol` names the protocol, `tools` are the tools in OpenAI's form, and `tool_instructions` the sentences by
which some of them are explained. From these the row is encoded for any student: with its chat template, its system prompt, its
budgets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from envs.datasets.columns import parsed
from envs.errors import RowError, UsageError
from envs.pictures import Source, named
from envs.protocols import Action, Protocol
from envs.protocols.opening import open_protocol
from envs.protocols.protocol import ToolGuide
from rollout.tokens.chat_format import ChatMessage

Setting = str | Mapping[str, Any]
"""A protocol as `+options.protocol=` names it."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A message that the student is shown: its role, its text, and its pictures, which stand before the text."""

    role: str
    text: str
    pictures: tuple[Source, ...] = ()


@dataclass(frozen=True, slots=True)
class DemonstrationTurn:
    """One turn: what is shown, then the assistant's action."""

    shown: tuple[Shown, ...]
    action: str
    parsed: Action


@dataclass(frozen=True, slots=True)
class Demonstration:
    """The turns, the protocol that they are written in, and the system prompt of the conversation itself, if it has one.

    `guides` are the tools; None if they are not known. `changes` say what is not as it was recorded, each as the end of a
    sentence about it.
    """

    protocol: Protocol
    turns: list[DemonstrationTurn]
    system: str | None = None
    guides: Sequence[ToolGuide] | None = None
    changes: tuple[str, ...] = ()

    def instructions(self, with_tools: bool = True) -> str:
        """As those of the `ToolEnv` in which it was made."""
        return self.protocol.instructions(self.guides if with_tools and self.guides else [])


def row_of(
    shown: Sequence[Sequence[ChatMessage]],
    actions: Sequence[str],
    *,
    protocol: Setting,
    guides: Sequence[ToolGuide],
    image: Callable[[str], str],
) -> dict[str, Any]:
    """The row of an episode; `image` gives the path of the image of a sha256, relative to the file."""
    messages: list[dict[str, Any]] = []
    for observations, action in zip(shown, actions, strict=False):  # what followed the last action was shown to nobody
        for message in observations:
            content: Any = message.text
            if message.images:
                content = [{"type": "image", "image": image(one.sha256)} for one in message.images]
                content.append({"type": "text", "text": message.text})
            messages.append({"role": message.role, "content": content})
        messages.append({"role": "assistant", "content": action})
    explained = {guide.schema["function"]["name"]: guide.instructions for guide in guides if guide.instructions}
    return {
        "messages": messages,
        "protocol": protocol,
        "tools": [dict(guide.schema) for guide in guides],
        "tool_instructions": explained,
    }


def is_row(row: Mapping[str, Any]) -> bool:
    """Whether a row of a file is one of these."""
    return "protocol" in row and "tool_instructions" in row


def demonstration(row: Mapping[str, Any], folder: Path) -> Demonstration:
    """The demonstration of a row; its pictures are named relative to `folder`. Raises RowError."""
    try:
        protocol = open_protocol(parsed(row["protocol"]))
    except UsageError as error:
        raise RowError(str(error)) from error
    tools, explained = parsed(row.get("tools")) or [], parsed(row["tool_instructions"]) or {}
    try:
        guides = [ToolGuide(schema, explained.get(schema["function"]["name"])) for schema in tools]
        records = [(record["role"], record["content"]) for record in parsed(row["messages"])]
    except (KeyError, TypeError, AttributeError) as error:
        raise RowError(f"tools or messages are not those of a synthesised demonstration ({error!r})") from error
    turns: list[DemonstrationTurn] = []
    shown: list[Shown] = []
    for role, content in records:
        if role == "assistant" and isinstance(content, str):
            turns.append(DemonstrationTurn(tuple(shown), content, protocol.parse(content)))
            shown = []
        else:
            shown.append(_shown(role, content, folder))
    if shown or not turns or not all(turn.shown for turn in turns):
        raise RowError("the roles do not alternate; write user, assistant, …, and the answer last")
    return Demonstration(protocol, turns, guides=guides)


def _shown(role: Any, content: Any, folder: Path) -> Shown:
    parts = [{"text": content}] if isinstance(content, str) else content
    if not isinstance(parts, Sequence) or not all(isinstance(part, Mapping) for part in parts):
        raise RowError(f"a message's content is {content!r}: write text, or a list of parts")
    pictures = tuple(named(part["image"], folder) for part in parts if part.get("image"))
    return Shown(str(role), "\n".join(str(part["text"]) for part in parts if part.get("text") is not None), pictures)
