"""What an episode's code was good for, how its tool calls failed, and which ones repeat: read from the text of its turns."""

from __future__ import annotations

import ast
import builtins
import json
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from envs.protocols import Call, Calls
from envs.protocols.opening import PROTOCOLS
from rollout.types import Turn

CODE = "code"
"""The name of the tool that runs code."""

_READERS = tuple(kind() for kind in PROTOCOLS.values())
_ERROR = re.compile(
    r"^(?:[\w.]+\.)?([A-Z]\w*)(?=:|\s*$)|(ran out of memory)|^(?:During handling of the|The) above exception\b", re.MULTILINE
)
_VALUE = re.compile(r"-?\d+(?:\.\d+)?(?:e[-+]?\d+)?|[^\W\d_]\w*", re.IGNORECASE)
_LONGEST_SOURCE = 20_000
_MOST_VALUES = 500
_SHORTEST_WORD = 4
_NOTHING = "(no output)"
_POLICYS = "<code of the policy>"

# Python's advice on code that a policy wrote ("invalid escape sequence") would be printed by every worker.
warnings.filterwarnings("ignore", category=SyntaxWarning, module=re.escape(_POLICYS))


@dataclass(frozen=True, slots=True)
class CodeUse:
    """One block of code that was run.

    `ran`: without an error. `empty`: it computes nothing, being made of comments, literals, `pass`, imports and prints of literals
    (no matter whether such a literal is right); None if the turn is in no protocol that can be read here. `unused`: it came back
    with neither a picture nor a value that a later turn mentions; None if it failed. A value is a number, a word of four letters or
    more, or all of a line; a number is mentioned as well by one that it rounds to. So this is a lower bound of what was not used: a
    turn may mention a value by chance.
    """

    ran: bool
    empty: bool | None
    unused: bool | None


def code_uses(turns: Sequence[Turn]) -> tuple[CodeUse, ...]:
    """Each block of code of an episode, in order. Blocks of one turn share what came back."""
    return tuple(_uses(turns))


def call_errors(turns: Sequence[Turn]) -> tuple[tuple[str, str], ...]:
    """(tool, kind) of each call that failed.

    A kind is the status ("timeout", "unavailable") if that says more than "error"; for code the built-in exception that ended it
    ("SyntaxError"), "memory" if it ran out of it, and "other" for exceptions of other packages; "error" for every other tool. Of
    several blocks of a turn that failed, each has its own, in order, as far as the text shows as many.
    """
    return tuple(error for turn in turns for error in _errors(turn))


def repeated_calls(turns: Sequence[Turn]) -> int:
    """How many calls of an episode equal an earlier one: the same tool and the same arguments.

    Those of a turn in no protocol that can be read here are told apart by its text, all of it, and their place in it.
    """
    known: set[tuple[str, str]] = set()
    repeated = 0
    for turn in turns:
        calls = _calls(turn) if turn.tool_calls else []
        for place, call in enumerate(turn.tool_calls):
            arguments = (turn.action, place) if calls is None else calls[place].arguments
            key = call.tool, json.dumps(arguments, sort_keys=True, default=repr)
            repeated += key in known
            known.add(key)
    return repeated


def _uses(turns: Sequence[Turn]) -> Iterator[CodeUse]:
    for number, turn in enumerate(turns):
        if not any(call.tool == CODE for call in turn.tool_calls):
            continue
        calls = _calls(turn)
        sources = [None] * len(turn.tool_calls) if calls is None else list(map(_source, calls))
        unused = not turn.images and not _mentioned(turn.observation, [later.action for later in turns[number + 1 :]])
        for call, source in zip(turn.tool_calls, sources, strict=True):
            if call.tool != CODE:
                continue
            ran = call.status == "ok"
            yield CodeUse(ran, None if source is None else computes_nothing(source), unused if ran else None)


def _calls(turn: Turn) -> Sequence[Call] | None:
    """A turn's calls, by the first built-in protocol that reads as many as there were; None if none does."""
    for reader in _READERS:
        parsed = reader.parse(turn.action)
        if isinstance(parsed, Calls) and len(parsed.calls) == len(turn.tool_calls):
            return parsed.calls
    return None


def _source(call: Call) -> str | None:
    return next((text for text in call.arguments.values() if isinstance(text, str)), None)


def computes_nothing(source: str) -> bool:
    """Whether code is nothing but comments, literals, `pass`, imports and prints of literals. What cannot be parsed is no such
    code."""
    if len(source) > _LONGEST_SOURCE:
        return False
    try:
        body = ast.parse(source, _POLICYS).body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return False
    return all(map(_is_idle, body))


def _is_idle(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Pass | ast.Import | ast.ImportFrom):
        return True
    if not isinstance(statement, ast.Expr):
        return False
    value = statement.value
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == "print":
        return all(map(_is_literal, value.args))
    return _is_literal(value)


def _is_literal(value: ast.expr) -> bool:
    try:
        ast.literal_eval(value)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return False
    return True


def _mentioned(printed: str, later: Sequence[str]) -> bool:
    if printed.strip() in ("", _NOTHING):
        return False
    lines = {line.strip() for line in printed.splitlines() if line.strip()}
    texts = "\n".join(later)
    if any(len(line) >= _SHORTEST_WORD and line in texts for line in lines):
        return True
    said = set(_VALUE.findall(texts)[:_MOST_VALUES])
    shown = [value for value in _VALUE.findall(printed)[:_MOST_VALUES] if _tells(value) or value in lines]
    if not said.isdisjoint(shown):
        return True
    rounded = [value for value in said if "." in value and "e" not in value.lower()]
    numbers = [float(value) for value in shown if not value[0].isalpha()]
    return any(f"{number:.{len(text.partition('.')[2])}f}" == text for number in numbers for text in rounded)


def _tells(value: str) -> bool:
    return not value[0].isalpha() or len(value) >= _SHORTEST_WORD


def _errors(turn: Turn) -> list[tuple[str, str]]:
    failed = [(call.tool, call.status) for call in turn.tool_calls if call.status != "ok"]
    count = failed.count((CODE, "error"))
    ends = _ends(turn.observation)[-count:] if count else []
    kinds = iter([*ends, *["other"] * (count - len(ends))])
    return [(tool, next(kinds) if (tool, status) == (CODE, "error") else status) for tool, status in failed]


def _ends(observation: str) -> list[str]:
    """The kinds of the errors that ended blocks of code, as far as their outputs, one after another, show them."""
    ends = []
    for found in _ERROR.finditer(observation):
        name, memory = found.groups()
        if memory:
            ends.append("memory")
        elif name is None:  # a line between two tracebacks: the error above it is not the one that ended the block
            del ends[-1:]
        elif _is_exception(name):
            ends.append(name)
        elif name.endswith(("Error", "Exception")):
            ends.append("other")
    return ends


def _is_exception(name: str) -> bool:
    found = getattr(builtins, name, None)
    return isinstance(found, type) and issubclass(found, BaseException)
