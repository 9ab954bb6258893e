"""The verdict in a judge's reply."""

from __future__ import annotations

import ast
import json
import re
from typing import Any

_WORDS = dict.fromkeys(("true", "yes", "correct", "right"), True) | dict.fromkeys(("false", "no", "incorrect", "wrong"), False)
_PYTHON = {"true": "True", "false": "False", "null": "None"}
_THOUGHTS = re.compile(r"(?is)\A.*</(?:think|thinking|thought|reasoning)>")
_SPOKEN = re.compile(
    r"(?i)\W*(?:(?:the\s+)?(?:final\s+)?(?:verdict|correct|judgement|judgment|answer|result)\W*(?:is|:|=)?\W*)?"
    r"(true|false|yes|no|correct|incorrect|right|wrong)\W*"
)
_CUT_OFF = re.compile(r"""(?i)\{\s*["']?correct["']?\s*:\s*["']?(true|false)\b[^{}]*\Z""")
_CONTRADICTION = object()


def verdict(reply: str) -> bool | None:
    """The last unmistakable verdict in a reply; None if there is none, or if it is contradicted.

    It is `{"correct": …}`, with other keys or without, in JSON or Python's notation, its value a boolean or a word for one; or a
    reply of one word. Verdicts before the end of thoughts do not count, nor do those that a line mentions among other words, if
    another one stands on a line of its own. Others must agree.
    """
    text = _THOUGHTS.sub("", reply.strip())
    found = _objects(text)
    alone = [value for value, start, end in found if _stands_alone(text, start, end)]
    values = alone or [value for value, _, _ in found]
    if not values:
        spoken = _SPOKEN.fullmatch(text.strip()) or _CUT_OFF.search(text)
        return _WORDS[spoken[1].casefold()] if spoken else None
    return values[-1] if len({id(value) for value in values}) == 1 and isinstance(values[-1], bool) else None


def _objects(text: str) -> list[tuple[Any, int, int]]:
    """The verdicts in the objects of a text, with where each begins and ends. What stands in their strings is no object."""
    found, position = [], 0
    while (start := text.find("{", position)) >= 0:
        value, end = _object(text, start)
        if end:
            position = end
            if value is not None:
                found.append((value, start, end))
        else:
            position = start + 1
    return found


def _object(text: str, start: int) -> tuple[Any, int]:
    """The verdict of the object at `start`, None if it has none, and its end; 0 if none can be read there."""
    try:
        pairs, end = json.JSONDecoder(strict=False, object_pairs_hook=lambda pairs: pairs).raw_decode(text, start)
    except (ValueError, RecursionError):
        end = _closing(text, start)
        source = re.sub(r"\b(true|false|null)\b", lambda word: _PYTHON[word[0]], text[start:end])
        try:
            tree = ast.parse(source, mode="eval").body
            if not isinstance(tree, ast.Dict):
                return None, 0
            pairs = [
                (ast.literal_eval(key), ast.literal_eval(value)) for key, value in zip(tree.keys, tree.values, strict=True) if key
            ]
        except (ValueError, SyntaxError, TypeError, AttributeError, RecursionError, MemoryError):
            bare = re.fullmatch(r"(?i)\{\s*[\"'“]?correct[\"'”]?\s*[:=]\s*[\"'“]?(\w+)[\"'”]?\s*,?\s*\}", text[start:end])
            if bare is None:
                return None, 0
            pairs = [("correct", bare[1])]
    values = [_truth_value(value) for key, value in pairs if isinstance(key, str) and key.strip().casefold() == "correct"]
    if not values:
        return None, end
    return (values[0] if values[0] is not None and all(value is values[0] for value in values) else _CONTRADICTION), end


def _truth_value(value: Any) -> bool | None:
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _WORDS.get(value.strip().strip(".").casefold())
    return bool(value) if value in (0, 1) else None


def _closing(text: str, start: int) -> int:
    """The index behind the brace that closes the one at `start`, without regard to those in strings; the end if none does."""
    depth, quote, index = 0, "", start
    while index < len(text):
        character = text[index]
        if character == "\\":
            index += 1
        elif quote:
            quote = "" if character == quote else quote
        elif character in "\"'":
            quote = character
        else:
            depth += (character == "{") - (character == "}")
            if depth == 0:
                return index + 1
        index += 1
    return len(text)


def _stands_alone(text: str, start: int, end: int) -> bool:
    """Whether nothing but marks stands on its lines."""
    before, after = text[:start].rpartition("\n")[2], text[end:].partition("\n")[0]
    return not re.search(r"\w|\{", before.replace("json", "")) and not re.search(r"\w|\{", after)
