"""A row's conversation as a demonstration: ShareGPT's `conversations`, OpenAI's `messages`, or Alpaca's `instruction` and `output`.

The protocol is found by reading: a policy's own, else DeepEyesV2's, else Hermes' if tools are called; OpenAI's `tool_calls` are the
API's. What is not in the policy's own is written in it (`curation.forms`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from curation.forms import Form, rendered, returned, same
from curation.rows import Demonstration, DemonstrationTurn, Shown
from envs.datasets.columns import NAMES, cleaned, parsed, require_understood, text
from envs.datasets.conversations import PLACEHOLDER, Message, as_question, conversation, settled
from envs.datasets.pictures import row_pictures
from envs.errors import RowError
from envs.pictures import Source, named
from envs.protocols import Answer, Calls, DeepEyes, Hermes, Malformed, Native, Protocol

UNEXPLAINED = "are learned without their system prompts, which explain that protocol"
WORDS = "end in words that are not between <answer> and </answer>, all of which are learned as the answer"
_EXPLAINS = re.compile(r"<(?:tools|tool_call|code|answer)>")
_RESPONSES = re.compile(r"<tool_response>.*?</tool_response>", re.DOTALL)


@dataclass(frozen=True, slots=True)
class _Exchange:
    """What is shown, message by message, and what the assistant says then."""

    shown: tuple[Shown, ...]
    said: str


def conversation_demonstration(row: Mapping[str, Any], folder: Path, form: Form | None) -> Demonstration:
    """The demonstration that a conversation is, in the protocol of `form`, None for DeepEyesV2's. Raises RowError if it is none."""
    row = _checked(cleaned(row))
    messages = conversation(row) or _instruction(row)
    system = "\n\n".join(message.text for message in messages if message.role == "system") or None
    exchanges = _exchanges(row, [message for message in messages if message.role != "system"], folder)
    own = form or Form(DeepEyes())
    through_api = any(message.calls for message in messages)
    protocols = [Native()] if through_api else [own.protocol, DeepEyes(), Hermes()]
    first: RowError | None = None
    for protocol in protocols:
        try:
            turns = _read(exchanges, protocol, anew=protocol is not protocols[0])
        except RowError as error:
            first = first or error
            continue
        made = Demonstration(protocol, turns, system)
        if not through_api and same(protocol, own.protocol):
            return rendered(made, own, verbatim=True, instructed=system is None)
        # Who calls through the API is shown the tools there; a protocol that is written is explained in the system prompt.
        misled = system is not None and (not through_api or _EXPLAINS.search(system) is not None)
        wordy = "<answer>" not in exchanges[-1].said
        changes = (*((UNEXPLAINED,) if misled else ()), *((WORDS,) if wordy else ()))
        return rendered(replace(made, system=None if misled else system, changes=changes), own)
    assert first is not None
    raise first


def _checked(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """A row without what `toolwise export` says about its turns. Raises RowError if that says that it is not to be learned."""
    turns, parts = parsed(row.get("turns")), parsed(row.get("reward_parts"))
    if not isinstance(turns, list | tuple) or not isinstance(parts, Mapping) or not all(isinstance(one, Mapping) for one in turns):
        return row
    if parts.get("accuracy") != 1:
        raise RowError("its answer was wrong: write only=right for toolwise export")
    calls = [call for turn in turns for call in turn.get("tool_calls", ())]
    if failed := next((call for call in calls if call.get("status") != "ok"), None):
        raise RowError(f"a call of {failed.get('tool')} failed ({failed.get('status')})")
    return {name: value for name, value in row.items() if name != "turns"}


def require_demonstration(turns: Sequence[DemonstrationTurn]) -> None:
    """Raise RowError unless every turn is an action, and the last and no other the answer."""
    for number, turn in enumerate(turns, 1):
        if isinstance(turn.parsed, Malformed):
            raise RowError(f"turn {number} of the assistant is not an action ({turn.parsed.reason})")
        if isinstance(turn.parsed, Answer) != (number == len(turns)):
            raise RowError("the answer must be the last turn, and only that")


def _read(exchanges: Sequence[_Exchange], protocol: Protocol, *, anew: bool) -> list[DemonstrationTurn]:
    """The turns as a protocol reads them. `anew`: it is no policy's own, and words without a call are no turn of it."""
    turns = []
    for exchange in exchanges:
        # Text after an action was written past the end of the turn and is not learned.
        action = protocol.first_turn(exchange.said)
        turns.append(DemonstrationTurn(exchange.shown, action, protocol.parse(action)))
    require_demonstration(turns)
    if anew and not any(isinstance(turn.parsed, Calls) for turn in turns):
        raise RowError("no tool is called")
    for exchange, turn, after in zip(exchanges, turns, exchanges[1:], strict=False):
        if isinstance(turn.parsed, Calls):
            written = Hermes().parse(exchange.said)
            count = len(written.calls) if isinstance(written, Calls) else 0
            if len(turn.parsed.calls) < count == len(after.shown):
                raise RowError(f"a turn makes {count} calls, of which {protocol.name} takes {len(turn.parsed.calls)}")
            returned(after.shown, len(turn.parsed.calls))
    return turns


def _exchanges(row: Mapping[str, Any], spoken: Sequence[Message], folder: Path) -> list[_Exchange]:
    """What the user or tools and then the assistant say, in turn, with the pictures of the row at their placeholders."""
    # The results of several calls, and a user's picture and text, may be messages of their own.
    runs = [list(run) for _, run in groupby(spoken, key=lambda message: message.role == "assistant")]
    if len(runs) % 2 or not runs or runs[0][0].role == "assistant" or any(len(run) > 1 for run in runs[1::2]):
        raise RowError("the roles do not alternate; write user, assistant, …, and the answer last")
    images = list(row_pictures(row, folder))
    require_understood(row, bool(images))
    exchanges: list[_Exchange] = []
    for prompts, (reply,) in zip(runs[::2], runs[1::2], strict=True):
        parts: list[tuple[str, tuple[Source, ...]]] = []
        messages = [one for said in prompts for one in (_responses(said) if exchanges else [as_question(said)])]
        for prompt in messages:
            own = [named(part, folder) for part in prompt.pictures]
            wanted = max(0, _placeholders(prompt) - len(own))
            if wanted > len(images):
                raise RowError("there are more <image> placeholders than images")
            parts.append((prompt.text, (*own, *images[:wanted])))
            images = images[wanted:]
        if exchanges:
            shown = tuple(Shown("tool", PLACEHOLDER.sub("", words).strip(), pictures) for words, pictures in parts)
        else:
            pictures = tuple(picture for _, pictures in parts for picture in pictures)
            shown = (Shown("user", settled("\n".join(words for words, _ in parts), len(pictures)), pictures),)
        exchanges.append(_Exchange(shown, _thought(reply.text.strip())))
    if images:
        raise RowError(f"{len(images)} images have no <image> placeholder")
    return exchanges


def _responses(prompt: Message) -> list[Message]:
    """The results in a message, each by itself if there are several between tags."""
    found = _RESPONSES.findall(prompt.text)
    several = len(found) > 1 and not prompt.pictures and not _RESPONSES.sub("", prompt.text).strip()
    return [replace(prompt, text=text) for text in found] if several else [prompt]


def _instruction(row: Mapping[str, Any]) -> list[Message]:
    """Alpaca's form: one question and one turn."""
    if "instruction" not in row or "output" not in row:
        raise RowError("there is no conversation; write messages, or conversations")
    system = [Message("system", text(row[name])) for name in NAMES["system"] if name in row]
    asked = "\n".join(text(row[name]) for name in ("instruction", "input") if name in row)
    return [*system, Message("user", asked), Message("assistant", text(row["output"]))]


def _placeholders(message: Message) -> int:
    """The number of pictures that a message's text has placeholders for."""
    numbers = {match["number"] or match["other"] for match in PLACEHOLDER.finditer(message.text)} - {None}
    return message.placeholders or len(numbers)


def _thought(turn: str) -> str:
    """A turn with both tags around its thoughts: if a chat template had opened them, the recorded text has only the second."""
    begun, closed_tag, _ = turn.partition("</think>")
    return f"<think>\n{turn}" if closed_tag and "<think>" not in begun else turn
