"""DeepEyesV2's protocol, the default.

The model may think in `<think>…</think>` and then takes one action:

- `<code>` with a ```` ```python ```` fence inside, `</code>`: run Python;
- `<tool_call>{"name": …, "arguments": {…}}</tool_call>`: call another tool;
- `<answer>…</answer>`: end the episode.

If a turn holds several actions, an answer outranks code and code outranks a tool call, as in DeepEyesV2; the first of its kind
counts, and a line of the observation says what else was not carried out. Results come back in a message of the user, those of a
`<tool_call>` between `<tool_response>` tags.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence

from PIL import Image

from envs.protocols.actions import Action, Answer, Call, Calls, Malformed
from envs.protocols.code_text import is_fenced, python_of
from envs.protocols.json_calls import calls_of, write_call
from envs.protocols.protocol import Message, Protocol, ToolGuide
from envs.protocols.tags import Scan, is_whole, scan

CODE = "code"
"""The tool that `<code>` calls, with the source as its argument `code`."""

_TAGS = frozenset({"answer", "code", "tool_call"})
_ACTION_TAG = re.compile(r"</?(?:answer|code|tool_call|think)>")
_WRITE_CODE = "write code as <code>, a ```python fence, </code>"
_END_TURN = "end your turn with <code>…</code>, <tool_call>…</tool_call> or <answer>…</answer>"


class DeepEyes(Protocol):
    """DeepEyesV2's protocol: see the module."""

    name = "deepeyes"
    stop = ("</code>", "</tool_call>", "</answer>")

    def parse(self, text: str) -> Action:
        found = scan(text, _TAGS)
        inside = {block.tag: block.inside for block in reversed(found.blocks)}  # the first of its kind
        if "answer" in inside:
            return Answer(inside["answer"].strip(), _note(found, "answer"))
        if "code" in inside:
            source = python_of(inside["code"])
            return Malformed(_WRITE_CODE) if source is None else Calls((Call(CODE, {"code": source}),), _note(found, "code"))
        if "tool_call" in inside:
            calls = calls_of([inside["tool_call"]])
            return calls if isinstance(calls, Malformed) else Calls(calls[:1], _note(found, "tool_call", len(calls) - 1))
        if found.open_tag == "code":
            return Malformed(_WRITE_CODE)
        if found.open_tag == "think":
            return Malformed(f"your thoughts were not closed: write </think>, then {_END_TURN}")
        return Malformed(_END_TURN)

    def ends_turn(self, text: str) -> bool:
        return is_whole(text, _TAGS)

    def thoughts_end(self, text: str) -> int:
        return scan(text, _TAGS).visible_start

    def is_well_formed(self, text: str) -> bool:
        found = scan(text, _TAGS)
        if len(found.blocks) != 1 or found.open_tag is not None or len(found.thoughts) > 1:
            return False
        (block,) = found.blocks
        if found.between(text, block.start).strip() or text[block.end :].strip():
            return False
        if not text.startswith(f"<{block.tag}>", block.start) or (block.tag == "code" and not is_fenced(block.inside)):
            return False
        # In code and in JSON a tag is just text; in an answer it is an action out of place.
        if block.tag == "answer" and _ACTION_TAG.search(block.inside):
            return False
        return not isinstance(action := self.parse(text), Malformed) and not action.note

    def write(self, action: Action) -> str:
        match action:
            case Answer(text):
                return f"<answer>{text}</answer>"
            case Calls((Call("code", {"code": str(source), **others}),)) if not others:
                return f"<code>\n```python\n{source}\n```\n</code>"
            case Calls((call,)):
                return write_call(call)
        raise ValueError(f"one turn of this protocol is one call or an answer, not {action}")

    def instructions(self, tools: Sequence[ToolGuide]) -> str:
        parts = ["Answer the question. You may first think inside <think>…</think>, then take exactly one action per turn."]
        parts += [tool.instructions or _explained(tool) for tool in tools]
        parts.append("To finish: <answer>…</answer> with the bare answer.")
        return "\n".join(parts)

    def results(self, calls: Sequence[Call], results: Sequence[tuple[str, tuple[Image.Image, ...]]]) -> list[Message]:
        ((text, images),) = results
        if calls[0].name != CODE:
            text = f"<tool_response>\n{text}\n</tool_response>"
        return [Message("user", text, images)]


def _note(found: Scan, tag: str, others: int = 0) -> str:
    """The line that says what was not carried out beside the first block of `tag` and besides `others` in it; often nothing."""
    counts = Counter(block.tag for block in found.blocks)
    counts[tag] += others - 1
    if found.open_tag in _TAGS:
        counts[found.open_tag] += 1
    ignored = [f"{count} {'more ' if name == tag else ''}<{name}>" for name, count in sorted(counts.items()) if count]
    if not ignored:
        return ""
    done = "counted" if tag == "answer" else "was carried out"
    verb = "was" if sum(counts.values()) == 1 else "were"
    return f"Only your first <{tag}> {done}: {' and '.join(ignored)} {verb} ignored. Take one action per turn."


def _explained(tool: ToolGuide) -> str:
    function = tool.schema["function"]
    example = {"name": function["name"], "arguments": dict.fromkeys(function["parameters"].get("properties", {}), "…")}
    schema = json.dumps(function["parameters"], ensure_ascii=False)
    description = function.get("description", "").strip().rstrip(".")
    return (
        f"To use {function['name']} ({description}): <tool_call>{json.dumps(example, ensure_ascii=False)}</tool_call>, "
        f"with arguments as in {schema}."
    )
