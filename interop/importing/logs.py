"""Rows of others' logs as conversations: OpenAI's chat messages, and DeepEyesV2's turns with tags, as messages or as one text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from curation.rows import Shown
from envs.datasets.columns import cleaned, parsed
from envs.datasets.conversations import PLACEHOLDER, conversation, settled
from envs.datasets.pictures import row_pictures
from envs.errors import RowError
from envs.pictures import Source, named
from envs.protocols import Answer, Call, Calls, Malformed, Protocol, escape
from interop.exporting.messages import RESULT_BEGIN, RESULT_END
from interop.settings import LogFormat

_LISTS = ("messages", "conversations", "pred_output", "conversation", "trajectory")
_TEXTS = (("input", "output"), ("prompt", "response"), ("prompt", "output"), ("question", "output"), ("question", "response"))
_CODE = re.compile(r"<code>.*</code>", re.DOTALL)
_TAGGED = re.compile(r"<(code|tool_call|answer)>.*</\1>", re.DOTALL)
_MARKED = re.compile(r"<\|im_start\|>(\w+)\n(.*?)(?:<\|im_end\|>\s*|\Z)", re.DOTALL)
# Special tokens left out, as verl's `rollout_data_dir` has it: a role stands alone on its line.
_BARE = re.compile(r"(?:\A|(?<=\n))(system|user|assistant|tool)\n")
_LINE = re.compile(f"(?:{PLACEHOLDER.pattern})\\n?", re.IGNORECASE)
_WRAPPER = ("<tool_response>", "</tool_response>")


@dataclass(slots=True)
class LoggedTurn:
    """One action, its thoughts apart from the text, and the messages that followed it."""

    action: str
    reasoning: str
    results: list[Shown] = field(default_factory=list)


@dataclass(slots=True)
class Logged:
    """A row: what was asked, the turns, and how many images are named but not there."""

    asked: list[Shown]
    turns: list[LoggedTurn]
    missing_images: int = 0


@dataclass(frozen=True, slots=True)
class _Spoken:
    role: str
    text: str
    pictures: tuple[Source, ...]
    reasoning: str
    called: bool


def format_of(row: Mapping[str, Any]) -> LogFormat | None:
    """What a row is certainly written in; None for chat messages without calls and tags, and for tags that both forms have."""
    try:
        records = _records(row)
    except RowError:
        return None
    if any(record.get("tool_calls") or record.get("function_call") for record in records):
        return LogFormat.openai
    if any(map(_CODE.search, _said(records))):
        return LogFormat.deepeyes
    if any(_role(record) == "tool" for record in records):
        return LogFormat.openai
    return None


def is_tagged(row: Mapping[str, Any]) -> bool:
    """Whether a row's model writes actions between tags, which is what DeepEyesV2's does if nothing speaks against it."""
    try:
        records = _records(row)
    except RowError:
        return False
    return any(map(_TAGGED.search, _said(records)))


def read(row: Mapping[str, Any], folder: Path, kind: LogFormat, protocol: Protocol) -> Logged:
    """The conversation of a row, with its calls in the words of `protocol`; its images are named relative to `folder`.

    Raises RowError if it cannot be read.
    """
    records = _records(row)
    column = next((name for name in ("images", "image") if name in row), None)
    images = iter(row_pictures({"images": row[column]}, folder) if column else ())
    logged = Logged([], [])
    begun = next((place for place, record in enumerate(records) if _role(record) == "assistant"), len(records))
    spoken = [_spoken(record, folder, images, logged, protocol, place < begun) for place, record in enumerate(records)]
    runs = [(role, list(run)) for role, run in groupby(spoken, key=lambda one: one.role == "assistant")]
    if not runs or runs[0][0] or len(runs) < 2:
        raise RowError("it does not begin with a question that the assistant answers: write user, assistant, …")
    if any(is_assistant and len(run) > 1 for is_assistant, run in runs):
        raise RowError("two messages of the assistant follow each other: write what came between them, or join them")
    logged.asked = [Shown(one.role, one.text, one.pictures) for one in runs[0][1]]
    left = list(images)
    if left:
        asked = next((place for place, one in enumerate(logged.asked) if one.role == "user"), None)
        if asked is None or any(one.pictures for one in spoken):
            raise RowError(f"{len(left)} images have no <image> placeholder")
        logged.asked[asked] = Shown("user", logged.asked[asked].text, tuple(left))
    for is_assistant, run in runs[1:]:
        if is_assistant:
            logged.turns.append(LoggedTurn(_action(run[0], kind, protocol, run[0] is spoken[-1]), run[0].reasoning))
        else:
            logged.turns[-1].results = _results(logged.turns[-1].action, run, protocol)
    return logged


def _records(row: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The messages of a row, as they stand there. Raises RowError if it has none."""
    row = cleaned(row)
    for name in _LISTS:
        if isinstance(records := parsed(row.get(name)), list):
            break
    else:
        if isinstance(prompt := parsed(row.get("prompt")), list) and isinstance(completion := parsed(row.get("completion")), list):
            records = [*prompt, *completion]
        else:
            pair = next((pair for pair in _TEXTS if all(isinstance(row.get(name), str) for name in pair)), None)
            if pair is None:
                raise RowError("there is no conversation: write messages, conversations, or input and output")
            records = list(_text_records(*(str(row[name]) for name in pair)))
    made = [record for record in records if isinstance(record, Mapping)]
    if not made or len(made) != len(records):
        raise RowError('the messages are no list of objects: write [{"role": "user", "content": "…"}, …]')
    return made


def _text_records(asked: str, said: str) -> Iterator[dict[str, str]]:
    """The messages of a conversation that is written as a prompt and what followed it, in one text each."""
    text = asked + said
    if "<|im_start|>" in text:
        if "<|im_start|>assistant" not in asked.rpartition("<|im_end|>")[2]:
            text = f"{asked}<|im_start|>assistant\n{said}"
        yield from ({"role": match[1], "content": match[2]} for match in _MARKED.finditer(text) if match[2].strip())
        return
    parts = _BARE.split(asked)
    if len(parts) > 2 and not parts[0].strip():
        pairs = list(zip(parts[1::2], parts[2::2], strict=True))
        yield from ({"role": role, "content": content.strip("\n")} for role, content in pairs if content.strip())
    else:
        yield {"role": "user", "content": asked}
    # What follows is the assistant's until a line says that it is the user's.
    parts = _BARE.split(f"assistant\n{said}")
    pairs = list(zip(parts[1::2], parts[2::2], strict=True))
    yield from ({"role": role, "content": content.strip("\n")} for role, content in pairs if content.strip())


def _said(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the assistant wrote."""
    own = (record for record in records if _role(record) == "assistant")
    return ["\n".join(_texts(record.get("content", record.get("value")))) for record in own]


def _role(record: Any) -> str | None:
    try:
        return conversation({"messages": [{"role": record.get("role", record.get("from")), "content": ""}]})[0].role
    except (RowError, AttributeError):
        return None


def _spoken(
    record: Mapping[str, Any], folder: Path, images: Iterator[Source], logged: Logged, protocol: Protocol, asks: bool
) -> _Spoken:
    """A message with its calls in words, and its images: its own, or the next of the row's."""
    calls = _calls(record)
    content = record.get("content", record.get("value"))
    plain = {name: value for name, value in record.items() if name in ("role", "from")}
    (message,) = conversation({"messages": [{**plain, "content": "" if content is None and calls else content}]})
    reasoning = str(record.get("reasoning_content") or record.get("reasoning") or "") if message.role == "assistant" else ""
    if message.role == "assistant":
        text = "\n".join(_texts(content))
        if calls:
            try:
                written = protocol.write(Calls(tuple(calls)))
            except ValueError:
                remedy = "write protocol=hermes"
                raise RowError(f"{len(calls)} calls in a turn, of which {protocol.name} takes one: {remedy}") from None
            text = f"{text}\n{written}" if text else written
        return _Spoken("assistant", text, (), reasoning, bool(calls))
    role = message.role
    if isinstance(content, list):
        texts = _texts(content)
        if texts[:1] == [RESULT_BEGIN] and len(texts) == 2 and texts[1].endswith(RESULT_END):  # as our export writes it
            role, texts = "tool", [texts[1].removesuffix(RESULT_END)]
        text, count = "\n".join(texts), sum(_is_image(part) for part in content)
    else:
        text, count = message.text, message.placeholders
    pictures = [named(value, folder) for value in message.pictures]
    while len(pictures) < count and (image := next(images, None)) is not None:
        pictures.append(image)
    missing = count - len(pictures)
    if asks or isinstance(content, list):
        logged.missing_images += missing
    if isinstance(content, list):
        pass
    elif asks and not missing:
        text = settled(text, len(pictures))
    elif asks or pictures:
        # What a tool printed may read like a placeholder: it is one only if the row has an image for it.
        text = _LINE.sub("", text, count=0 if asks else len(pictures))
    return _Spoken(role, text, tuple(pictures), "", False)


def _calls(record: Mapping[str, Any]) -> list[Call]:
    """The calls in a message's `tool_calls`. Raises RowError if they are not as OpenAI writes them."""
    given = parsed(record.get("tool_calls")) or ([record["function_call"]] if record.get("function_call") else [])
    calls: list[Call] = []
    for one in given if isinstance(given, list) else [given]:
        function = one.get("function", one) if isinstance(one, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise RowError(f"a tool call is {str(one)[:80]!r}: write its name and arguments as OpenAI does")
        arguments = parsed(function.get("arguments") or {})
        if not isinstance(arguments, Mapping):
            raise RowError(f"the arguments of a tool call are not JSON: {str(arguments)[:80]!r}")
        calls.append(Call(function["name"], dict(arguments)))
    return calls


def _texts(content: Any) -> list[str]:
    parts = content if isinstance(content, list) else [content]
    texts = [part if isinstance(part, str) else part.get("text") for part in parts if isinstance(part, str | Mapping)]
    return [text for text in texts if isinstance(text, str)]


def _is_image(part: Any) -> bool:
    return isinstance(part, Mapping) and part.get("type") in ("image", "image_url", "input_image")


def _action(one: _Spoken, kind: LogFormat, protocol: Protocol, is_last: bool) -> str:
    """A turn in the protocol's words: the last one of OpenAI's form, which has no tags, is the answer."""
    unread = is_last and not one.called and bool(one.text.strip()) and isinstance(protocol.parse(one.text), Malformed)
    return protocol.write(Answer(one.text.strip())) if unread and kind is LogFormat.openai else one.text


def _results(action: str, run: list[_Spoken], protocol: Protocol) -> list[Shown]:
    """What followed a turn, as the environment would show it: what a tool returned is data, so that no tag in it is one."""
    parsed_action = protocol.parse(action)
    calls = parsed_action.calls if isinstance(parsed_action, Calls) else ()
    note = parsed_action.note if isinstance(parsed_action, Calls | Answer) else ""
    if isinstance(parsed_action, Malformed):
        note = protocol.remedy(parsed_action).text
    if not calls or len(run) > max(1, len(calls)):
        return [Shown("user", _safe(one.text, note), one.pictures) for one in run]
    texts = [_safe(one.text, note) for one in run]
    if len(run) == 1 and texts[0].startswith(_WRAPPER[0]):  # written as this protocol's environment does
        return [Shown("user", texts[0], run[0].pictures)]
    if len(run) < len(calls):
        role = protocol.results(calls, [("", ())] * len(calls))[0].role
        return [Shown(role, text, one.pictures) for text, one in zip(texts, run, strict=True)]
    messages = protocol.results(calls, [(text, ()) for text in texts])
    if len(messages) == len(run):
        return [Shown(message.role, message.text, one.pictures) for message, one in zip(messages, run, strict=True)]
    pictures = tuple(picture for one in run for picture in one.pictures)
    return [Shown(message.role, message.text, pictures if not place else ()) for place, message in enumerate(messages)]


def _safe(text: str, own: str) -> str:
    """What tools returned, escaped as in any episode, but for the line `own` that the environment itself adds."""
    if text.startswith(_WRAPPER[0]):
        end = text.endswith(_WRAPPER[1])
        inside = text.removeprefix(_WRAPPER[0]).removesuffix(_WRAPPER[1])
        return f"{_WRAPPER[0]}{_safe(inside, own)}{_WRAPPER[1] if end else ''}"
    return own.join(map(escape, text.split(own))) if own else escape(text)
