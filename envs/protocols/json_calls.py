"""The tool calls in a block of JSON, in the forms in which models write them.

Beside `{"name": …, "arguments": {…}}`: OpenAI's nesting in `function`, `tool` for `name`, `parameters`, `args` and `input` for
`arguments`, arguments as JSON text or beside the name, several calls in a list or one after another, a fence around the whole, raw
line breaks in strings, trailing commas, comments, Python's literals, typographic quotes, and Qwen3-Coder's
`<function=name><parameter=key>value</parameter></function>`. Nothing that is missing is completed.
"""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from envs.protocols.actions import Call, Malformed
from envs.protocols.code_text import unfenced

MAX_CALLS = 16
"""Most tool calls in one turn."""
CODE_NAMES = frozenset(
    f"{verb}{thing}" for verb in ("", "run_", "execute_", "exec_") for thing in ("code", "python", "python_code", "ipython", "py")
) | {"code_interpreter", "python_interpreter", "code_execution", "python_executor", "jupyter", "python3"}
"""Names by which models call the code tool in JSON, in lower case."""

_HEADER = re.compile(r"[^\n{\[]*+\n?")  # of a fence
_FUNCTION = re.compile(r"<function=([^>\s]+)\s*>(.*?)(?:</function>|\Z)", re.DOTALL)
_PARAMETER = re.compile(r"<parameter=([^>\s]++)\s*+>(.*?)</parameter>", re.DOTALL)
_STRINGS = {
    '"': r'"(?:[^"\\]++|\\.)*+(?P<double>")?',
    "'": r"'(?:[^'\\]++|\\.)*+(?P<single>')?",
}
_NOISE = r"(?<!:)//[^\n]*+"
_COMMA = r",(?=\s*[}\]])"
_WORD = r"\b(?:true|false|null)\b"
_PYTHON = {"true": "True", "false": "False", "null": "None"}
_TYPOGRAPHIC = str.maketrans("“”„‟", '""""')

_WRAPPED = re.compile(r"\A<(?:\|?\w+\|?)>(.*?)(?:</\w+>|<\|\w+\|>)?\Z", re.DOTALL)

_OTHER_FORMS = re.compile(
    r"<function=|<\|?tool_calls?\|?>\s*[\[{]|\[TOOL_CALLS\]|<[|｜]tool[_▁]calls?[\w▁]*[|｜]>|<(?:antml:)?(?:invoke\s|function_calls>)"
    r"|<\|python_tag\|>|<tool_code>|(?:Thought:.*\n)?Action:[ \t]*[\w.-]+\s*\n\s*Action Input:"
)
_NAMES = ("name", "tool", "tool_name", "function", "function_name", "recipient_name")
_ARGUMENTS = ("arguments", "parameters", "args", "params", "input", "kwargs", "tool_input", "action_input")
_OTHERS = frozenset({"id", "type", "index", "call_id", "tool_call_id"})
_NOT_JSON = 'write a tool call as <tool_call>{"name": "…", "arguments": {…}}</tool_call>: what stands inside is not JSON'


class _Unreadable(Exception):
    """The message is the remedy."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys stand in it once; the last of several would silently win."""
    record = dict(pairs)
    if again := next((key for key, value in pairs if record[key] != value and value == value), None):
        raise _Unreadable(f"write {json.dumps(again)} of a tool call once: it stands there with several values")
    return record


_DECODER = json.JSONDecoder(strict=False, object_pairs_hook=_once)


def calls_of(payloads: Iterable[str]) -> tuple[Call, ...] | Malformed:
    """The calls in the insides of several `<tool_call>` blocks, or the remedy for the first that cannot be read."""
    try:
        calls = [call for payload in payloads for call in _calls(payload)]
    except _Unreadable as error:
        return Malformed(str(error))
    except (ValueError, RecursionError, TypeError, SyntaxError, MemoryError):
        return Malformed(_NOT_JSON)
    if len(calls) > MAX_CALLS:
        return Malformed(f"at most {MAX_CALLS} tool calls in one turn, not {len(calls)}")
    return tuple(calls)


def reads_as_call(text: str) -> bool:
    """Whether a text without `<tool_call>` tags is nothing but a call: in JSON, bare or in other tags, or another model's form."""
    text = text.strip()
    if _OTHER_FORMS.match(text):
        return True
    if wrapped := _WRAPPED.match(text):
        text = wrapped[1].strip()
    text = _without_fence(text)
    if not text.startswith(("{", "[")) or not any(f'"{key}"' in text for key in _ARGUMENTS[:3]):
        return False
    return not isinstance(calls_of([text]), Malformed)


def write_call(call: Call, separator: str = "") -> str:
    """A tool call as JSON between its tags; without a `separator`, empty `arguments` are left out."""
    record = {"name": call.name} | ({"arguments": call.arguments} if call.arguments or separator else {})
    return f"<tool_call>{separator}{json.dumps(record, ensure_ascii=not separator)}{separator}</tool_call>"


def _calls(payload: str) -> Iterator[Call]:
    payload = payload.strip()
    payload = _without_fence(payload)
    if "<function=" in payload[:64] and (functions := _FUNCTION.findall(payload)):
        for name, inside in functions:
            closed = inside[: inside.rfind("</parameter>") + len("</parameter>")]  # each that begins in it ends in it
            yield Call(name, {key: value.removeprefix("\n").removesuffix("\n") for key, value in _PARAMETER.findall(closed)})
        return
    records = list(_records(payload))
    if not records:
        raise _Unreadable('a tool call is a JSON object with "name" and "arguments"')
    yield from map(_call, records)


def _records(payload: str) -> Iterator[Any]:
    """The JSON values that describe one call each."""
    for value in _values(payload):
        if isinstance(value, str) and value.lstrip().startswith(("{", "[")):  # encoded twice
            value = _value(value)
        if isinstance(value, Mapping) and isinstance(listed := value.get("tool_calls", value.get("calls")), list):
            value = listed
        yield from value if isinstance(value, list) else [value]


def _values(payload: str) -> list[Any]:
    """The JSON values that follow one another."""
    try:
        return [_value(payload)]
    except ValueError:
        if not payload:
            raise
        values, position = [], 0
        while position < len(payload):
            value, position = _DECODER.raw_decode(payload, position)
            values.append(value)
            position = len(payload) - len(payload[position:].lstrip(" \t\r\n,;"))
        return values


def _value(text: str) -> Any:
    """One value of JSON, or of what is near it. Raises ValueError."""
    try:
        return _DECODER.decode(text)
    except ValueError:
        if not text.lstrip().startswith(("{", "[")):
            raise
    plain = _edited(_edited(text, _NOISE), _COMMA)
    for candidate in (plain, plain.translate(_TYPOGRAPHIC)):
        try:
            return _DECODER.decode(candidate)
        except ValueError:
            continue
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes that Python does not know
            literal = ast.literal_eval(_edited(plain, _WORD, _PYTHON, quotes="\"'").strip())
        return json.loads(json.dumps(literal))
    except (SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise ValueError("no literal of Python either") from error


def _without_fence(text: str) -> str:
    inside = unfenced(text)
    return text if inside is None else _HEADER.sub("", inside, count=1).strip()


def _edited(text: str, what: str, replacements: Mapping[str, str] | None = None, quotes: str = '"') -> str:
    """The text, in which what matches a pattern outside strings is replaced, or removed.

    A quote that is never closed opens no string, nor does any of its kind after it, since all of them are escaped: to try them
    would take time with the square of the length.
    """
    parts, position = [], 0
    while True:
        pattern = re.compile("|".join([*(_STRINGS[quote] for quote in quotes), f"(?P<what>{what})"]), re.DOTALL)
        for match in pattern.finditer(text, position):
            parts.append(text[position : match.start()])
            position = match.end()
            if match.lastgroup == "what":
                parts.append((replacements or {}).get(match.group(), ""))
            elif match.lastgroup:
                parts.append(match.group())
            else:
                position = match.start() + 1
                parts.append(text[match.start()])
                quotes = quotes.replace(text[match.start()], "")
                break
        else:
            return "".join([*parts, text[position:]])


def _call(record: Any) -> Call:
    if isinstance(record, Mapping) and isinstance(record.get("function"), Mapping):
        record = {key: value for key, value in record.items() if key != "function"} | dict(record["function"])
    if not isinstance(record, Mapping):
        raise _Unreadable('a tool call is a JSON object with "name" and "arguments"')
    named = next((key for key in _NAMES if isinstance(record.get(key), str)), None)
    if named is None:
        raise _Unreadable('a tool call is a JSON object with "name" and "arguments"')
    name = record[named]
    given = {key: _arguments(name, record[key]) for key in _ARGUMENTS if record.get(key) not in (None, "", {})}
    different = [value for place, value in enumerate(given.values()) if value not in list(given.values())[:place]]
    if len(different) > 1:
        raise _Unreadable(f'write the arguments of {name} once, as "arguments": they stand in {" and in ".join(given)}')
    # Arguments beside the name, in no object of their own.
    beside = {key: value for key, value in record.items() if key not in (named, *_ARGUMENTS, *_OTHERS)}
    return Call(name, different[0] if different else beside)


def _arguments(name: str, value: Any) -> dict[str, Any]:
    if isinstance(value, str) and name.strip().lower() in CODE_NAMES and not value.lstrip().startswith("{"):
        return {"code": value}
    for _ in range(2):  # JSON text, possibly encoded twice
        if isinstance(value, str):
            value = _value(value)
    if not isinstance(value, Mapping):
        raise _Unreadable('"arguments" of a tool call is a JSON object')
    return dict(value)
