"""The protocol between model and environment: text to action, tool output to safe text.

The model may think in `<think>…</think>` and then takes one action:

- `<code>` with a ```` ```python ```` fence inside, `</code>`: run Python;
- `<tool_call>{"name": …, "arguments": {…}}</tool_call>`: call another tool;
- `<answer>…</answer>`: end the episode.

Where several stand in one turn, an answer outranks code and code outranks a tool call, as in DeepEyesV2.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Answer:
    """The final answer's text."""

    text: str


@dataclass(frozen=True, slots=True)
class Code:
    """Python source to run."""

    source: str


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a named tool."""

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Malformed:
    """No action could be read; `reason` tells the model what to write instead."""

    reason: str


Action = Answer | Code | Call | Malformed

_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_CODE = re.compile(r"<code>\s*```(?:python|py)?[ \t]*\n(.*?)```\s*</code>", re.DOTALL)
_CALL = re.compile(r"<tool_call>(.*?)</tool_call>", re.DOTALL)
_THINK = re.compile(r"<think>.*?</think>", re.DOTALL)
_ACTION_TAG = re.compile(r"</?(?:answer|code|tool_call|think)>")

# What opens a special token or a tag of the protocol, in any of the spellings that chat templates use.
_UNSAFE = re.compile(
    r"<(?=[|｜]|\s*/?\s*(?:think|code|tool_call|tool_response|answer|image|video|img|box|ref|s|bos|eos|pad|unk|start_of|end_of)(?:_\w*)?\b)",
    re.IGNORECASE,
)
_SURROGATE = re.compile("[\ud800-\udfff]")


def parse(text: str) -> Action:
    """Read one turn of the model. Never raises: what can't be read is `Malformed` with the remedy."""
    visible = _THINK.sub("", text)
    if match := _ANSWER.search(visible):
        return Answer(match.group(1).strip())
    if match := _CODE.search(visible):
        return Code(match.group(1).rstrip())
    if match := _CALL.search(visible):
        return _parse_call(match.group(1))
    if "<code>" in visible:
        return Malformed("write code as <code>, a ```python fence, </code>")
    return Malformed("end your turn with <code>…</code>, <tool_call>…</tool_call> or <answer>…</answer>")


def is_well_formed(text: str) -> bool:
    """Whether a turn is exactly one action, with nothing but one optional `<think>` block before it."""
    bare = re.sub(r"\A\s*<think>.*?</think>", "", text, count=1, flags=re.DOTALL).strip()
    for pattern in (_ANSWER, _CODE, _CALL):
        if match := pattern.fullmatch(bare):
            inside = match.group(1)
            return not _ACTION_TAG.search(inside) and not isinstance(parse(bare), Malformed)
    return False


def escape(text: str) -> str:
    """Make tool output harmless: `<` becomes `&lt;` where it would open a special token or a tag of the protocol."""
    return _UNSAFE.sub("&lt;", text)


def encodable(text: str) -> str:
    """The text with U+FFFD for each lone surrogate, which JSON can smuggle in and no tokenizer and no file takes."""
    return _SURROGATE.sub("\ufffd", text)


def instructions(tools: tuple[str, ...]) -> str:
    """The system prompt that explains the protocol to a model that does not know it yet."""
    parts = ["Answer the question. You may first think inside <think>…</think>, then take exactly one action per turn."]
    if "code" in tools:
        parts.append(
            "To run Python: <code>\n```python\n…\n```\n</code>. The question's images are PIL images image_1, image_2, …; printed "
            "text, shown figures and the value of the last expression come back to you; variables persist between turns."
        )
    if "text_search" in tools:
        parts.append('To search texts: <tool_call>{"name": "search", "arguments": {"query": "…"}}</tool_call>.')
    if "image_search" in tools:
        parts.append(
            'To find what an image shows: <tool_call>{"name": "image_search"}</tool_call> for the question\'s image, or with '
            '"arguments": {"image": N} for the N-th image that you have seen, one that you cropped included.'
        )
    parts.append("To finish: <answer>…</answer> with the bare answer.")
    return "\n".join(parts)


def _parse_call(payload: str) -> Action:
    try:
        record = json.loads(payload)
    except (ValueError, RecursionError):
        return Malformed(
            'write a tool call as <tool_call>{"name": "…", "arguments": {…}}</tool_call>: what stands inside is not JSON'
        )
    if not isinstance(record, dict) or not isinstance(record.get("name"), str):
        return Malformed('a tool call is a JSON object with "name" and "arguments"')
    arguments = record.get("arguments", {})
    if not isinstance(arguments, dict):
        return Malformed('"arguments" of a tool call is a JSON object')
    return Call(record["name"], arguments)
