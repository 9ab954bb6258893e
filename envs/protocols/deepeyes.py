"""DeepEyesV2's protocol, the default.

The model may think in `<think>…</think>` and then takes one action:

- `<code>` with a ```` ```python ```` fence inside, `</code>`: run Python;
- `<tool_call>{"name": …, "arguments": {…}}</tool_call>`: call another tool;
- `<answer>…</answer>`: end the episode.

If a turn holds several actions, an answer outranks code and code outranks a tool call, as in DeepEyesV2; the first of its kind
counts. Results come back in a message of the user, those of a `<tool_call>` between `<tool_response>` tags.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from PIL import Image

from envs.protocols.actions import Action, Answer, Call, Calls, Malformed
from envs.protocols.protocol import Message, Protocol, ToolGuide
from envs.protocols.tags import Block, call_of, code_of, is_whole, scan, write_call

CODE = "code"
"""The tool that `<code>` calls, with the source as its argument `code`."""

_TAGS = frozenset({"answer", "code", "tool_call"})
_ACTION_TAG = re.compile(r"</?(?:answer|code|tool_call|think)>")


class DeepEyes(Protocol):
    """DeepEyesV2's protocol: see the module."""

    name = "deepeyes"
    stop = ("</code>", "</tool_call>", "</answer>")

    def parse(self, text: str) -> Action:
        found = scan(text, _TAGS)
        first: dict[str, Block] = {}
        for block in found.blocks:
            first.setdefault(block.tag, block)
        if "answer" in first:
            return Answer(first["answer"].inside.strip())
        if "code" in first:
            return Calls((Call(CODE, {"code": code_of(first["code"])}),))
        if "tool_call" in first:
            call = call_of(first["tool_call"])
            return call if isinstance(call, Malformed) else Calls((call,))
        if found.open_tag == "code" or found.broken:
            return Malformed("write code as <code>, a ```python fence, </code>")
        return Malformed("end your turn with <code>…</code>, <tool_call>…</tool_call> or <answer>…</answer>")

    def ends_turn(self, text: str) -> bool:
        return is_whole(text, _TAGS)

    def thoughts_end(self, text: str) -> int:
        return scan(text, _TAGS).visible_start

    def is_well_formed(self, text: str) -> bool:
        found = scan(text, _TAGS)
        if len(found.blocks) != 1 or found.open_tag is not None or found.broken:
            return False
        (block,) = found.blocks
        before = text[found.visible_start : block.start]
        thought = re.sub(r"\A\s*<think>.*?</think>", "", before, count=1, flags=re.DOTALL)
        if thought.strip() or text[block.end :].strip():
            return False
        # In code and in JSON a tag is just text; in an answer it is an action out of place.
        if block.tag == "answer" and _ACTION_TAG.search(block.inside):
            return False
        return not isinstance(self.parse(text), Malformed)

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


def _explained(tool: ToolGuide) -> str:
    function = tool.schema["function"]
    example = {"name": function["name"], "arguments": dict.fromkeys(function["parameters"].get("properties", {}), "…")}
    schema = json.dumps(function["parameters"], ensure_ascii=False)
    description = function.get("description", "").strip().rstrip(".")
    return (
        f"To use {function['name']} ({description}): <tool_call>{json.dumps(example, ensure_ascii=False)}</tool_call>, "
        f"with arguments as in {schema}."
    )
