"""A demonstration in the words of the policy that learns from it: in its protocol, with its tools and what they return."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from curation.rows import Demonstration, DemonstrationTurn, Shown
from envs.errors import RowError
from envs.pictures import Source
from envs.protocols import Answer, Call, Calls, Hermes, Native, Protocol, escape
from envs.protocols.code_text import python_of
from envs.protocols.json_calls import CODE_NAMES
from envs.protocols.protocol import ToolGuide
from envs.protocols.tags import scan
from envs.scoring.types import MAX_ANSWER_CHARACTERS
from rollout.episode.environments import make
from rollout.episode.prompts import protocol_of
from rollout.episode.teacher_turns import as_thoughts
from rollout.specs import Tasks

_TAGS = frozenset({"answer", "code", "tool_call"})
_CODE = "code"
_RESPONSE = re.compile(r"\A<tool_response>(.*)</tool_response>\Z", re.DOTALL)

Result = tuple[str, tuple[Source, ...]]
"""What a call returned: its text, and its pictures."""


@dataclass(frozen=True, slots=True)
class Form:
    """How a policy speaks in its environment: the protocol, and what explains the tools. `names` are the tools by every name by
    which the environment knows them, and the name that the policy writes; empty if they are not known."""

    protocol: Protocol
    guides: Sequence[ToolGuide] = ()
    names: Mapping[str, str] | None = None

    @classmethod
    def of(cls, tasks: Tasks) -> Form | None:
        """That of an environment; None if it has no protocol. Raises UsageError if it cannot be made."""
        env = make(*tasks)
        try:
            protocol = protocol_of(env)
            if protocol is None:
                return None
            before = list(getattr(env.unwrapped, "tool_guides", ()))
            env.reset(seed=0)  # a server names its tools when it is first asked
            guides = {_name(guide): guide for guide in [*before, *getattr(env.unwrapped, "tool_guides", ())]}
            others = {tool: tool for tool in getattr(env.unwrapped, "tools", ())}
            if "search" in guides and "text_search" in others:
                others["text_search"] = "search"  # a model calls it by another name
            return cls(protocol, list(guides.values()), others | {name: name for name in guides})
        finally:
            env.close()

    def unknown(self, made: Demonstration) -> list[str]:
        """The tools that a demonstration calls and that the environment does not have; none if they are not known."""
        calls = [call for turn in made.turns if isinstance(turn.parsed, Calls) for call in turn.parsed.calls]
        return [] if self.names is None else [call.name for call in calls if _meant(call, self.names).name not in self.names]


def same(one: Protocol, other: Protocol) -> bool:
    """Whether two protocols are the same in a student's tokens, as `native` and `hermes` are."""
    kinds = [Hermes if type(protocol) is Native else type(protocol) for protocol in (one, other)]
    return kinds[0] is kinds[1] and vars(one) == vars(other)


def rendered(made: Demonstration, form: Form, *, verbatim: bool = False, instructed: bool = True) -> Demonstration:
    """The demonstration in the protocol of `form`.

    `verbatim` leaves its turns as they are, which are in that protocol already, and writes only what tools returned as the
    environment does. Several calls of one turn become turns one after another if the protocol has one call a turn. What stands
    before an action are thoughts. `instructed` explains the tools of `form`. Raises RowError if results cannot be told apart, or an
    answer is too long to be one.
    """
    protocol, turns, shown = form.protocol, list[DemonstrationTurn](), made.turns[0].shown
    for place, turn in enumerate(made.turns):
        if not isinstance(turn.parsed, Calls):
            action = turn.action if verbatim else _answered(turn, protocol)
            turns.append(DemonstrationTurn(shown, action, protocol.parse(action)))
            continue
        results = returned(made.turns[place + 1].shown, len(turn.parsed.calls))
        steps = [(turn.action, turn.parsed.calls)] if verbatim else list(_written(turn, form))
        for action, calls in steps:
            turns.append(DemonstrationTurn(shown, action, protocol.parse(action)))
            shown, results = _messages(protocol, calls, results[: len(calls)]), results[len(calls) :]
    guides = form.guides if made.guides is None else _shared(form.guides, made.guides)
    changes = made.changes
    if not verbatim and made.protocol.name != protocol.name:
        changes = (f"are in the protocol {made.protocol.name}, and are written in {protocol.name}", *changes)
    return Demonstration(protocol, turns, made.system, (guides or None) if instructed else made.guides, changes)


def returned(shown: Sequence[Shown], count: int) -> list[Result]:
    """What each of a turn's calls returned, of the messages that follow it. Raises RowError if they cannot be told apart."""
    parts = [(_RESPONSE.sub(r"\1", one.text.strip()).strip(), one.pictures) for one in shown]
    if count == 1:  # a picture and the text may be messages of their own
        return [("\n".join(text for text, _ in parts).strip(), tuple(picture for _, pictures in parts for picture in pictures))]
    if len(parts) != count:
        raise RowError(f"a turn makes {count} calls, and {len(parts)} results follow: write a message of the role tool for each")
    return parts


def _written(turn: DemonstrationTurn, form: Form) -> Iterator[tuple[str, tuple[Call, ...]]]:
    """The turns that make its calls: one, or one for each call."""
    assert isinstance(turn.parsed, Calls)
    calls = tuple(_meant(call, form.names) for call in turn.parsed.calls)
    thoughts = as_thoughts(_before(turn.action))
    try:
        yield thoughts + form.protocol.write(Calls(calls)), calls
    except ValueError:  # one call a turn
        for number, call in enumerate(calls):
            yield ("" if number else thoughts) + form.protocol.write(Calls((call,))), (call,)


def _answered(turn: DemonstrationTurn, protocol: Protocol) -> str:
    assert isinstance(turn.parsed, Answer)
    text = turn.parsed.text
    if len(text) >= MAX_ANSWER_CHARACTERS:
        raise RowError(
            f"the last turn has {len(text)} characters, and an answer of {MAX_ANSWER_CHARACTERS} or more is never right: write the "
            "answer alone between <answer> and </answer>"
        )
    return as_thoughts(_before(turn.action)) + protocol.write(Answer(text))


def _before(action: str) -> str:
    """What stands before a turn's action: thoughts, whether between tags or not."""
    found = scan(action, _TAGS)
    if found.blocks:
        return action[: found.blocks[0].start]
    said = found.visible.strip()
    return action[: action.rfind(said)] if said else action


def _meant(call: Call, names: Mapping[str, str] | None) -> Call:
    """The call by the name that the policy writes; code by any of its usual names, with the source as `code`."""
    if names is not None and call.name in names and names[call.name] != _CODE:
        return Call(names[call.name], call.arguments)
    if call.name.lower() not in CODE_NAMES or (names is not None and _CODE not in names):
        return call
    texts = list(call.arguments.values())
    if len(texts) != 1 or not isinstance(texts[0], str):
        return Call(_CODE, call.arguments)
    fenced = python_of(texts[0]) if texts[0].lstrip().startswith(("```", "~~~")) else None
    return Call(_CODE, {"code": texts[0] if fenced is None else fenced})


def _messages(protocol: Protocol, calls: Sequence[Call], results: Sequence[Result]) -> tuple[Shown, ...]:
    """What tools returned, as the environment writes it; the pictures stand with their results if each has a message."""
    messages = protocol.results(calls, [(escape(text), ()) for text, _ in results])
    pictures = [pictures for _, pictures in results]
    if len(messages) != len(results):
        pictures = [tuple(picture for part in pictures for picture in part), *[()] * len(messages)]
    return tuple(Shown(message.role, message.text, own) for message, own in zip(messages, pictures, strict=False))


def _shared(guides: Sequence[ToolGuide], others: Sequence[ToolGuide]) -> list[ToolGuide]:
    """Those of the guides whose tools have others as well: a task may have only some of the tools."""
    names = set(map(_name, others))
    return [guide for guide in guides if _name(guide) in names]


def _name(guide: ToolGuide) -> str:
    return guide.schema["function"]["name"]
