"""The tool calls that Qwen2.5, Qwen3, their vision-language models and many others were trained on, and their form over an API.

A turn holds any number of `<tool_call>` blocks with JSON inside, which run concurrently; their results come back as messages of the
role `tool`. A turn without a call is the answer. The tools are shown through the chat template's own `tools=`; if the template
ignores them, as Qwen2.5-VL's does, the system prompt shows them in the same words.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from PIL import Image

from envs.errors import UsageError
from envs.protocols.actions import Action, Answer, Call, Calls, CutOff, Malformed
from envs.protocols.json_calls import calls_of, reads_as_call, write_call
from envs.protocols.protocol import Message, Protocol, ToolGuide
from envs.protocols.tags import THOUGHTS_END, is_whole, scan

_TAGS = frozenset({"answer", "tool_call"})
_CODE = re.compile(r"<code>.*</code>\Z", re.DOTALL)  # of the protocol deepeyes
_STRAY = re.compile(rf"\A(?:\s*(?:{THOUGHTS_END.pattern}))+", re.IGNORECASE)  # thoughts closed twice
_REMEDY = "call a tool as <tool_call>{…}</tool_call>, or answer"


class Hermes(Protocol):
    """Hermes tool calls: see the module.

    `answer="turn"` takes a turn without a call as the answer (the text in `<answer>` tags, if it has any); `answer="tag"` requires
    `<answer>…</answer>`. `parallel=False` ends a turn at its first call. A `CutOff` without tags is no answer.
    """

    name = "hermes"
    tools_in_template = True

    def __init__(self, answer: str = "turn", parallel: bool = True) -> None:
        if answer not in ("turn", "tag"):
            raise UsageError(f"protocol: answer={answer!r}: write turn or tag")
        self._answer = answer
        self.stop = (*(() if answer == "turn" else ("</answer>",)), *(() if parallel else ("</tool_call>",)))

    def parse(self, text: str) -> Action:
        found = scan(text, _TAGS)
        answers = [block.inside.strip() for block in found.blocks if block.tag == "answer"]
        left_open = "" if found.open_tag is None else f"<{found.open_tag}> was never closed"
        if answers:
            calls = len(found.blocks) - len(answers)
            parts = [(len(answers) - 1, "more <answer>"), (calls, "<tool_call>")]
            ignored = " and ".join(f"{count} {what}" for count, what in parts if count)
            return Answer(answers[0], f"Only your first <answer> counted; ignored: {ignored}." if ignored else "")
        if found.blocks:
            calls = calls_of(block.inside for block in found.blocks)
            unread = found.open_tag in _TAGS
            return (
                calls if isinstance(calls, Malformed) else Calls(calls, f"Your last {left_open}: it was ignored." if unread else "")
            )
        if left_open:
            return Malformed(f"{left_open}: {_REMEDY}")
        answer = _STRAY.sub("", found.visible).strip()
        if reads_as_call(answer) or _CODE.match(answer):
            return Malformed(f"a tool is called between tags: {_REMEDY}")
        if isinstance(text, CutOff):  # words of which nobody knows how they end are no answer
            return Malformed(f"your turn was cut off before its end: be shorter. {_REMEDY[0].upper()}{_REMEDY[1:]}")
        if self._answer == "tag":
            return Malformed("end your turn with <tool_call>…</tool_call> or <answer>…</answer>")
        return Answer(answer) if answer else Malformed(f"your turn is empty: {_REMEDY}")

    def ends_turn(self, text: str) -> bool:
        return is_whole(text, _TAGS)

    def thoughts_end(self, text: str) -> int:
        return scan(text, _TAGS).visible_start

    def is_well_formed(self, text: str) -> bool:
        found = scan(text, _TAGS)
        action = self.parse(text)
        if (
            isinstance(action, Malformed)
            or found.open_tag is not None
            or any(not text.startswith(f"<{block.tag}>", block.start) for block in found.blocks)
        ):
            return False
        after = text[found.blocks[-1].end :] if found.blocks else ""
        mixed = len({block.tag for block in found.blocks}) > 1 or sum(block.tag == "answer" for block in found.blocks) > 1
        return not after.strip() and not mixed

    def write(self, action: Action) -> str:
        match action:
            case Answer(text):
                plain = self._answer == "turn" and self.parse(text) == action
                return text if plain else f"<answer>{text}</answer>"
            case Calls(calls):
                return "\n".join(write_call(call, "\n") for call in calls)
        raise ValueError(f"there is no turn that means {action}")

    def instructions(self, tools: Sequence[ToolGuide]) -> str:
        # The words of Qwen2.5's own chat template, on which these models were trained.
        finish = "\n\nTo finish, write <answer>…</answer> with the bare answer." if self._answer == "tag" else ""
        if not tools:
            return finish.strip()
        schemas = "\n".join(json.dumps(tool.schema, ensure_ascii=False) for tool in tools)
        return (
            "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
            f"You are provided with function signatures within <tools></tools> XML tags:\n<tools>\n{schemas}\n</tools>\n\n"
            "For each function call, return a json object with function name and arguments within "
            "<tool_call></tool_call> XML tags:\n"
            f'<tool_call>\n{{"name": <function-name>, "arguments": <args-json-object>}}\n</tool_call>{finish}'
        )

    def results(self, calls: Sequence[Call], results: Sequence[tuple[str, tuple[Image.Image, ...]]]) -> list[Message]:
        return [Message("tool", text, images) for text, images in results]


class Native(Hermes):
    """For a model behind an endpoint: it is given the API's `tools` and answers with `tool_calls`.

    A student's tokens have no such fields, so there its turns are those of Hermes.
    """

    name = "native"
    native = True
