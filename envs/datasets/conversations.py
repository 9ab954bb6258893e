"""Conversations as the field writes them: OpenAI's `messages`, ShareGPT's `conversations`, verl's and TRL's `prompt`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from envs.datasets.columns import NAMES, absent, parsed
from envs.errors import RowError

_ROLES = {
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "gpt", "model", "bot", "chatgpt", "function_call"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("tool", "function", "observation", "ipython", "tool_response", "function_response"), "tool"),
}
_ACTS = re.compile(r"</?(?:tool_call|code|search|python|execute|function_call)>|```python", re.IGNORECASE)
_RESPONDS = re.compile(
    r"\s*<(?:tool_response|tool_result|information|observation|interpreter|output|result|execution)\b", re.IGNORECASE
)
PLACEHOLDER = re.compile(
    r"<image(?:[ _-]?(?P<number>\d+))?>|<\|image(?:_(?P<other>\d+))?\|>|(?:<\|vision_start\|>)?<\|image_pad\|>(?:<\|vision_end\|>)?"
    r"|<ImageHere>|<image_placeholder>",
    re.IGNORECASE,
)
_WRITTEN = re.compile(
    r"<img>\s*(?P<tagged>[^<\n]+?)\s*</img>|<img\b[^>\n]*?\bsrc=[\"'](?P<html>[^\"'\n]+)[\"'][^>\n]*>|!\[[^\]\n]*\]\((?P<markdown>[^)\s]+)\)"
)
_TEMPLATE = re.compile(r"<\|im_start\|>|<\|start_header_id\|>|\[INST\]")
_OTHER_MEDIA = re.compile(r"<(?:video|audio)>|<\|(?:video|audio)_pad\|>", re.IGNORECASE)
_PICTURES = ("image_url", "image", "input_image")


@dataclass(frozen=True, slots=True)
class Message:
    """One message. Its `pictures` are values of the row, and stand in its text as placeholders `<image>`; those of an assistant's
    text are its own words."""

    role: str
    text: str
    pictures: tuple[Any, ...] = ()
    acts: bool = False
    """Whether it is an assistant's and calls a tool."""
    calls: bool = False
    """Whether it does so apart from its text, as through OpenAI's API."""

    @property
    def placeholders(self) -> int:
        """Number of placeholders without a number in the text."""
        return 0 if self.role == "assistant" else sum(not _number(match) for match in PLACEHOLDER.finditer(self.text))


def conversation(row: Mapping[str, Any]) -> list[Message]:
    """The messages of a row's `messages`, `conversations`, or `prompt` with `completion`; empty if it has none.

    A `system` column is the first message. Raises RowError for a malformed message.
    """
    name = next((name for name in (*NAMES["messages"], "prompt") if isinstance(parsed(row.get(name)), list)), None)
    if name is None:
        if given := next((name for name in NAMES["messages"] if name in row), None):
            raise RowError(f'{given} is not a list: write [{{"role": "user", "content": "…"}}, …]')
        return []
    records = list(parsed(row[name]))
    completion = parsed(row.get("completion"))
    if isinstance(completion, list) and name == "prompt":
        records += completion
    messages = [_message(record) for record in records]
    system = next((row[name] for name in NAMES["system"] if name in row), None)
    if system is not None:
        messages.insert(0, Message("system", _flat(system)[0]))
    return messages


@dataclass(frozen=True, slots=True)
class Asked:
    """What a conversation asks: its system prompt, the user's text and pictures, and the assistant's last text.

    `own_placeholders` is the number of placeholders in the user's text, `placeholders` that in all messages but the assistant's.
    """

    text: str
    system: str = ""
    pictures: tuple[Any, ...] = ()
    reply: str | None = None
    own_placeholders: int = 0
    placeholders: int = 0


def asked(messages: list[Message]) -> Asked:
    """The one question of a conversation. Raises RowError if it has none, or more than one."""
    systems = [message.text for message in messages if message.role == "system"]
    rest = [message for message in messages if message.role != "system"]
    opening = 0
    while opening < len(rest) and rest[opening].role == "user":
        opening += 1
    prompts, later = list(map(as_question, rest[:opening])), rest[opening:]
    questions = 1 + sum(
        message.role == "user" and not before.acts and before.role != "tool" and not _RESPONDS.match(message.text)
        for before, message in pairwise(later)
    )
    text = "\n".join(message.text for message in prompts).strip()
    if not PLACEHOLDER.sub("", text).strip():
        raise RowError("there is no question; write a message of the role user")
    if questions > 1:
        raise RowError(f"the conversation asks {questions} questions: write one row for each")
    if messages[0].role != "system" and systems:
        raise RowError("a system message comes after others: write it first")
    replies = [message for message in rest if message.role == "assistant"]
    own = sum(message.placeholders for message in prompts)
    return Asked(
        text,
        "\n\n".join(systems),
        tuple(picture for message in prompts for picture in message.pictures),
        replies[-1].text if replies and rest[-1].role == "assistant" else None,
        own,
        own + sum(message.placeholders for message in later),
    )


def settled(text: str, pictures: int, begin: int = 0) -> str:
    """A question's text for `pictures` pictures that stand before it.

    Placeholders at the beginning of the question, which is at `begin`, and a single one at the end go; others become references as
    in "[image 2]". Raises RowError unless each placeholder has a picture, and each picture one if there are any.
    """
    matches = list(PLACEHOLDER.finditer(text))
    if not matches:
        return text.strip()
    plain = sum(not _number(match) for match in matches)
    highest = max(map(_number, matches))
    if plain not in (0, pictures) or highest > pictures:
        named = f"<image {highest}>" if highest > pictures else f"{plain} placeholders <image>"
        raise RowError(f"the question has {named}, and there are {pictures} images: write one placeholder for each image, or none")
    if pictures == 1 and len(matches) == 1 and not text[matches[0].end() :].strip():
        return text[: matches[0].start()].strip()
    parts, position, seen = [], 0, 0
    for match in matches:
        number = _number(match)
        seen += not number
        before = text[begin : match.start()] if match.start() >= begin else text
        leading = not PLACEHOLDER.sub("", before).strip() and (not number or pictures == 1)
        parts += [text[position : match.start()], "" if leading else f"[image {number or seen}]"]
        position = match.end()
        while leading and position < len(text) and text[position].isspace():
            position += 1
    return "".join([*parts, text[position:]]).strip()


def with_pictures(text: str) -> tuple[str, tuple[str, ...]]:
    """A question's text with placeholders for the pictures that it names itself, as Qwen-VL, Markdown and HTML do, and their names.

    Raises RowError if it is written in a chat template, or shows a video or a sound.
    """
    if match := _TEMPLATE.search(text):
        raise RowError(f"the question is written in a chat template ({match.group()}): write messages, or the question alone")
    if match := _OTHER_MEDIA.search(text):
        raise RowError(f"the question shows {match.group()}: only pictures can be shown")
    names = tuple(match["tagged"] or match["html"] or match["markdown"] for match in _WRITTEN.finditer(text))
    return _WRITTEN.sub("<image>", text), names


def as_question(message: Message) -> Message:
    """A user's message that asks, with the pictures that its text names. What a tool returned is left as it is."""
    text, own = with_pictures(message.text)
    if own and message.pictures:
        raise RowError("a message has pictures in its text and as parts: write them one way")
    return replace(message, text=text, pictures=message.pictures or own)


def referenced(text: str) -> str:
    """A text in which placeholders with a number are references, as in "[image 2]"."""
    return PLACEHOLDER.sub(lambda match: f"[image {_number(match)}]" if _number(match) else match.group(), text)


def _number(match: re.Match[str]) -> int:
    return int(match["number"] or match["other"] or 0)


def _message(record: Any) -> Message:
    if not isinstance(record, Mapping):
        raise RowError(f"a message is {record!r}: write role and content")
    role, content = record.get("role", record.get("from")), record.get("content", record.get("value"))
    calls = parsed(record.get("tool_calls"))
    if record.get("function_call") and not calls:
        calls = [record["function_call"]]
    if role is None or (content is None and not calls):
        raise RowError("a message has no role or no content")
    if not isinstance(role, str) or role not in _ROLES:
        raise RowError(f"a message has the role {role!r}: write user, assistant, system or tool")
    text, pictures = _flat(content)
    if role == "function_call":
        calls, text = parsed(text), ""
    written = [_call(call) for call in (calls if isinstance(calls, list) else [calls] if calls else [])]
    thoughts = record.get("reasoning_content") or record.get("reasoning")
    if thoughts and _ROLES[role] == "assistant":
        text = f"<think>\n{thoughts}\n</think>\n{text}"
    text = "\n".join(part for part in (text, *written) if part)
    acts = _ROLES[role] == "assistant"
    return Message(_ROLES[role], text, pictures, acts and (bool(written) or bool(_ACTS.search(text))), acts and bool(written))


def _call(record: Any) -> str:
    """A call of OpenAI's form in the default protocol."""
    function = record.get("function", record) if isinstance(record, Mapping) else None
    if not isinstance(function, Mapping):
        raise RowError(f"a tool call is {str(record)[:80]!r}: write its name and arguments as OpenAI does")
    arguments = function.get("arguments", function.get("parameters"))
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except ValueError:
            raise RowError(f"the arguments of a tool call are not JSON: {arguments[:80]!r}") from None
    if not isinstance(function.get("name"), str) or not isinstance(arguments, Mapping | None):
        raise RowError("a tool call has no name, or no arguments: write them as OpenAI does")
    call = {"name": function["name"], "arguments": {name: value for name, value in (arguments or {}).items() if value is not None}}
    return f"<tool_call>{json.dumps(call, ensure_ascii=False)}</tool_call>"


def _flat(content: Any) -> tuple[str, tuple[Any, ...]]:
    """The text of a message's content, with placeholders, and its pictures."""
    if content is None:
        return "", ()
    if isinstance(content, str):
        return content, ()
    if isinstance(content, int | float):
        return str(content), ()
    if not isinstance(content, Iterable):
        raise RowError(f"a message's content is {content!r}: write text, or a list of parts")
    texts, pictures, marks = [], [], []
    for part in [content] if isinstance(content, Mapping) else content:
        if isinstance(part, str):
            texts.append(part)
            continue
        kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
        if not isinstance(part, Mapping) or kind not in (None, "text", "input_text", "output_text", "refusal", *_PICTURES):
            raise RowError(f"a message has a part of the type {kind!r}: write text or image")
        picture = next((part[name] for name in (*_PICTURES, "path", "url", "bytes", "source") if not absent(part.get(name))), None)
        if kind in _PICTURES or (kind is None and picture is not None):
            marks.append(len(texts))
            texts.append("<image>")
            pictures += [picture] if picture is not None else []
        else:
            texts.append(str(part.get("text") or part.get("content") or ""))
    written = sum(len(PLACEHOLDER.findall(text)) for place, text in enumerate(texts) if place not in marks)
    if marks and written == len(marks):  # the parts are those that the text mentions
        texts = [text for place, text in enumerate(texts) if place not in marks]
    return "\n".join(text for text in texts if text), tuple(pictures)
