"""Finds the actions between tags in a turn, from left to right, so that a tag inside another action is plain text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from envs.protocols.actions import Call, Malformed

MAX_CALLS = 16
"""Most tool calls in one turn."""

_OPENING = re.compile(r"<(?P<close>/?)(?P<tag>think|code|tool_call|answer)>")
_FENCE = re.compile(r"\A\s*```(?i:python3?|py)?[ \t]*\r?\n(.*?)```\s*\Z", re.DOTALL)
_CODE = re.compile(r"<code>\s*```(?i:python3?|py)?[ \t]*\r?\n.*?```\s*</code>", re.DOTALL)
_FENCED = re.compile(r"<code>\s*```")
# JSON strings are skipped: a closing tag inside one is part of it. A quote that is never closed opens no string.
_CALL_END = re.compile(r'"(?:[^"\\]|\\.)*"|(?P<end></tool_call>)', re.DOTALL)
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_PYTHON_STRING = re.compile(
    r"""(\"{3}|'{3})(?:[^\\]|\\.)*?\1 | "(?:[^"\\\n]|\\.)*" | '(?:[^'\\\n]|\\.)*' | \#[^\n]*\n""", re.DOTALL | re.VERBOSE
)
_JSON_FENCE = re.compile(r"\A```(?:json)?\s*(.*?)\s*```\Z", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Block:
    """One action between tags, outside the thoughts: its tag, its content, and its start and end in the turn."""

    tag: str
    inside: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Scan:
    """The parts of a turn: its actions, and the text outside the thoughts.

    `visible_start` is the index at which a lone `</think>` ends the thoughts, else 0. `open_tag` is a tag that was never closed;
    the text after it is hidden. `broken` says that a code block was closed but has no fence.
    """

    blocks: tuple[Block, ...]
    visible: str
    visible_start: int
    open_tag: str | None
    broken: bool


def scan(text: str, tags: frozenset[str]) -> Scan:
    """Find the blocks of `tags` outside the thoughts, from left to right: a tag inside a block is part of its text.

    Thoughts are in `<think>…</think>`, or before a lone `</think>` if the chat template opens them. Thoughts that were cut off hide
    everything after them.
    """
    blocks: list[Block] = []
    hidden: list[tuple[int, int]] = []
    position = visible_start = 0
    thought = broken = False
    while match := _OPENING.search(text, position):
        tag, start, position = match["tag"], match.start(), match.end()
        if tag == "think" and match["close"]:
            if not thought:  # the chat template opened them: all text before is thought
                blocks, hidden, thought, broken, visible_start = [], [], True, False, position
        elif tag == "think":
            end = text.find("</think>", position)
            if end < 0:
                return Scan(tuple(blocks), _without(text[:start], visible_start, hidden), visible_start, tag, broken)
            thought, position = True, end + len("</think>")
            hidden.append((start, position))
        elif tag in tags and not match["close"]:
            end = _end(text, start, tag)
            if not thought and not _begins(text, position, tag) and (closing := text.find("</think>", position, end)) >= 0:
                position = closing  # thoughts that the chat template opened, in which the tag was only mentioned
                continue
            if end is None:
                return Scan(tuple(blocks), _without(text, visible_start, hidden), visible_start, tag, broken)
            inside = text[position : end - len(tag) - 3]
            if tag == "code" and not _FENCE.match(inside):
                broken = True
            else:
                blocks.append(Block(tag, inside, start, end))
            position = end
    return Scan(tuple(blocks), _without(text, visible_start, hidden), visible_start, None, broken)


def _begins(text: str, position: int, tag: str) -> bool:
    """Whether the text at `position`, after the tag, looks like the content of its action."""
    return tag != "answer" and text[position : position + 16].lstrip().startswith(("```", "{") if tag == "tool_call" else "```")


def _end(text: str, start: int, tag: str) -> int | None:
    """The end of the action that opens at `start`; None if it is never closed."""
    if tag == "code" and _FENCED.match(text, start):
        match = _CODE.match(text, start)
        return None if match is None else match.end()
    if tag == "tool_call":
        return next((match.end() for match in _CALL_END.finditer(text, start) if match["end"]), None)
    end = text.find(f"</{tag}>", start)
    return None if end < 0 else end + len(tag) + 3


def is_whole(text: str, tags: frozenset[str]) -> bool:
    """Whether a turn that generation stopped at is over: not if the text that stopped it stands in thoughts, or in a string of code
    or of a call's JSON. A closing tag amid an action that is not its own ends the turn, which is then malformed."""
    found = scan(text, tags)
    if found.open_tag is not None:
        inside = text[text.rfind(f"<{found.open_tag}>") :]
        return found.open_tag != "think" and not _ends_in_string(inside, found.open_tag)
    last = found.blocks[-1] if found.blocks else None
    return last is None or last.tag != "tool_call" or bool(text[last.end :].strip()) or not _ends_in_string(last.inside, last.tag)


def _ends_in_string(inside: str, tag: str) -> bool:
    """Whether the inside of an action ends amid a string, or a comment of code."""
    if tag == "code":
        return re.search("[\"'#]", _PYTHON_STRING.sub("", inside)) is not None
    return tag == "tool_call" and '"' in _STRING.sub("", inside)


def _without(text: str, start: int, hidden: list[tuple[int, int]]) -> str:
    parts = []
    for begin, end in hidden:
        parts.append(text[start:begin])
        start = end
    return "".join([*parts, text[start:]])


def code_of(block: Block) -> str:
    """The Python source of a code block."""
    match = _FENCE.match(block.inside)
    assert match is not None
    return match.group(1).rstrip()


def call_of(block: Block) -> Call | Malformed:
    """The tool call of a block of JSON.

    Arguments given as JSON text or as `parameters`, raw line breaks inside a string, and a fence around the whole are accepted.
    """
    payload = block.inside.strip()
    if fenced := _JSON_FENCE.match(payload):
        payload = fenced.group(1)
    try:
        record = json.loads(payload, strict=False)
        arguments = next((record[key] for key in ("arguments", "parameters") if key in record), {})
        if arguments is None:
            arguments = {}
        if isinstance(arguments, str):
            arguments = json.loads(arguments, strict=False) if arguments.strip() else {}
    except (ValueError, RecursionError, TypeError):
        return Malformed(
            'write a tool call as <tool_call>{"name": "…", "arguments": {…}}</tool_call>: what stands inside is not JSON'
        )
    if not isinstance(record, dict) or not isinstance(record.get("name"), str):
        return Malformed('a tool call is a JSON object with "name" and "arguments"')
    if not isinstance(arguments, dict):
        return Malformed('"arguments" of a tool call is a JSON object')
    return Call(record["name"], arguments)


def calls_of(blocks: Iterator[Block]) -> tuple[Call, ...] | Malformed:
    """The calls of several blocks, or the remedy for the first that cannot be read."""
    calls = []
    for block in blocks:
        call = call_of(block)
        if isinstance(call, Malformed):
            return call
        calls.append(call)
    if len(calls) > MAX_CALLS:
        return Malformed(f"at most {MAX_CALLS} tool calls in one turn, not {len(calls)}")
    return tuple(calls)


def write_call(call: Call, separator: str = "") -> str:
    """A tool call as JSON between its tags; without a `separator`, empty `arguments` are left out."""
    record = {"name": call.name} | ({"arguments": call.arguments} if call.arguments or separator else {})
    return f"<tool_call>{separator}{json.dumps(record, ensure_ascii=not separator)}{separator}</tool_call>"
