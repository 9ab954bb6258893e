"""What a teacher said, as its student would write it: its calls and answers in the student's protocol, its thoughts before them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from envs.protocols import Answer, Call, Calls, Malformed, Protocol
from envs.protocols.tags import THOUGHTS_BEGIN, THOUGHTS_END, scan
from rollout.config import Thoughts

if TYPE_CHECKING:
    from envs.runtime.chat_endpoint import Reply

_ANSWER = frozenset({"answer"})


def text_turn(protocol: Protocol, text: str, reasoning: str, thoughts: Thoughts) -> str:
    """The turn of a teacher that writes the protocol itself.

    `reasoning`, which the API keeps apart, stands in front only if the text has no thoughts of its own. Without thoughts, a turn
    is its action alone; one that is no action stays as it is.
    """
    if thoughts is Thoughts.drop:
        action = protocol.parse(text)
        return text if isinstance(action, Malformed) else protocol.write(action)
    own = THOUGHTS_BEGIN.search(text) or THOUGHTS_END.search(text)
    return text if own or thoughts is Thoughts.text else as_thoughts(reasoning) + text


def native_turn(protocol: Protocol, reply: Reply, thoughts: Thoughts) -> tuple[str, int]:
    """The turn of a teacher that calls tools through the API, and how many of its calls are in it.

    A protocol with one call a turn takes the first. What the teacher says beside its calls, or before an `<answer>`, are thoughts;
    a text without both is the answer, unless it was cut off: then it stays as it is, which is no action.
    """
    text = reply.text.strip()
    if reply.tool_calls:
        calls = tuple(Call(call.name, call.arguments) for call in reply.tool_calls)
        try:
            written, count = protocol.write(Calls(calls)), len(calls)
        except ValueError:
            written, count = protocol.write(Calls(calls[:1])), 1
        return _chosen(reply.reasoning, text, thoughts) + written, count
    if not text or isinstance(protocol.parse(text), Calls):
        return text_turn(protocol, text, reply.reasoning, thoughts) if text else "", 0
    found = scan(text, _ANSWER)
    if found.blocks:
        said, answer = text[: found.blocks[0].start], found.blocks[0].inside.strip()
    elif reply.finish_reason == "length":  # words of which nobody knows how they end are no answer
        return _chosen(reply.reasoning, "", thoughts) + text, 0
    else:
        answer = found.visible.strip()
        said = text[: text.rfind(answer)] if answer else text
    return (_chosen(reply.reasoning, said, thoughts) + protocol.write(Answer(answer))) if answer else text, 0


def _chosen(reasoning: str, said: str, thoughts: Thoughts) -> str:
    parts = {Thoughts.keep: (reasoning, said), Thoughts.text: (said,), Thoughts.drop: ()}[thoughts]
    return as_thoughts("\n\n".join(part.strip() for part in parts if part.strip()))


def as_thoughts(text: str) -> str:
    """Thoughts between tags: none in the text may end them."""
    inside = THOUGHTS_END.sub("", THOUGHTS_BEGIN.sub("", text)).strip()
    return f"<think>\n{inside}\n</think>\n" if inside else ""
