"""Reads from a line of a trajectory file what the index keeps, without its tokens: those are most of a line.

A line as `Trajectory.to_json` writes it is cut around its token lists, which are only counted; any other form is read whole. What
is missing or of the wrong type is shown as missing: a record is checked when it is shown, not here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

LONGEST_TEXT = 1 << 16
"""Characters of each text, an action or an observation, that are searched."""
LONGEST_ID = 1000
_SHOWN = 2000
_LISTS = (b',"token_ids":[', b'],"loss_mask":[', b'],"logprobs":[', b'],"versions":[', b'],"prompt_length":')


class Unreadable(ValueError):
    """A line is no record of an episode."""


@dataclass(slots=True)
class Chain:
    """What a line says of its episode. `row` is what lists show; `text` is searched; `prompt` reads the token ids of the prompt."""

    row: dict[str, Any]
    number: int
    text: str
    cut: bool
    prompt: Callable[[], list[int]]


def read_line(line: bytes) -> Chain:
    """What is kept of a line. Raises Unreadable."""
    try:
        record, tokens, sampled, prompt = _divided(line) or _whole(line)
    except (ValueError, RecursionError) as error:
        raise Unreadable(str(error)) from error
    episode_id = record.get("episode_id")
    if not isinstance(episode_id, str) or not 0 < len(episode_id) <= LONGEST_ID:
        raise Unreadable("it has no episode_id")
    turns = [turn for turn in _list(record.get("turns")) if isinstance(turn, dict)]
    calls = [call for turn in turns for call in calls_of(turn)]
    texts = [str(turn.get(part) or "") for turn in turns for part in ("reasoning", "action", "observation")]
    answer = record.get("answer")
    texts.append("" if answer is None else str(answer))
    parts = {str(name): number(value) for name, value in _dict(record.get("reward_parts")).items()}
    reward = number(record.get("reward"))
    needed = record.get("needed_tools")
    needed = None if needed is None else _names(needed)
    accuracy = parts.get("accuracy", reward)
    chain = record.get("chain", 0)
    row = {
        "episode_id": _clean(episode_id),
        "group_id": _clean(str(record.get("group_id", ""))[:LONGEST_ID]),
        "task_id": _clean(str(record.get("task_id", ""))[:LONGEST_ID]),
        "abilities": _abilities(record),
        "needed_tools": needed,
        "needs_tool": None if needed is None else bool(needed),
        "reward": reward,
        "reward_parts": parts,
        "correct": accuracy is not None and accuracy >= 1.0,
        "answer": None if answer is None else _clean(str(answer)[:_SHOWN]),
        "stop_reason": _clean(str(record.get("stop_reason", ""))[:LONGEST_ID]),
        "error": None if record.get("error") is None else _clean(str(record["error"])[:_SHOWN]),
        "cut": None if record.get("cut") is None else _clean(str(record["cut"])[:LONGEST_ID]),
        "tools": [call["tool"] for call in calls],
        "tool_statuses": [call["status"] for call in calls],
        "calls": len(calls),
        "turns": len(turns),
        "tokens": tokens,
        "sampled_tokens": sampled,
    }
    kept = [text[:LONGEST_TEXT] for text in texts if text]
    cut = any(len(text) > LONGEST_TEXT for text in texts)
    return Chain(row, chain if isinstance(chain, int) else 0, _clean("\n".join(kept)), cut, prompt)


def joined(first: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """The row of an episode to which another of its chains belongs."""
    added = ("tools", "tool_statuses", "calls", "turns", "tokens", "sampled_tokens")
    return first | {name: first[name] + other[name] for name in added}


def calls_of(turn: dict[str, Any]) -> list[dict[str, Any]]:
    """The tool calls of a turn's record: `tool`, `status`, `latency_s`; older records have one call, without a list."""
    listed = turn.get("tool_calls")
    if listed is None:
        listed = []
        if turn.get("tool") is not None:
            listed = [{"tool": turn["tool"], "status": turn.get("tool_status"), "latency_s": turn.get("tool_latency_s")}]
    return [
        {
            "tool": _clean(str(call.get("tool", ""))[:LONGEST_ID]),
            "status": _clean(str(call.get("status", ""))[:LONGEST_ID]),
            "latency_s": number(call.get("latency_s")),
        }
        for call in _list(listed)
        if isinstance(call, dict)
    ]


def number(value: Any) -> float | None:
    """A finite number as it is; None for NaN, infinities and what is no number, none of which JSON can hold."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def _divided(line: bytes) -> tuple[dict[str, Any], int, int, Callable[[], list[int]]] | None:
    """The record without its token lists, the numbers of tokens and of sampled ones, and the prompt; None for another form.

    No text can hold these marks: inside one, a quotation mark is escaped.
    """
    places, at = [], 0
    for mark in _LISTS:
        at = line.find(mark, at)
        if at < 0:
            return None
        places.append(at)
    ids, mask, logprobs, _, behind = places
    token_ids = line[ids + len(_LISTS[0]) : mask]
    try:
        record = json.loads(line[:ids] + line[behind + 1 :])
    except ValueError:
        return None
    if not isinstance(record, dict):
        return None
    length = record.get("prompt_length")
    count = token_ids.count(b",") + 1 if token_ids.strip() else 0
    sampled = line.count(b"1", mask + len(_LISTS[1]), logprobs)

    def prompt() -> list[int]:
        shown = token_ids.split(b",", length)[:length] if isinstance(length, int) and length > 0 else []
        return [int(token_id) for token_id in shown]

    return record, count, sampled, prompt


def _whole(line: bytes) -> tuple[dict[str, Any], int, int, Callable[[], list[int]]]:
    record = json.loads(line)
    if not isinstance(record, dict):
        raise Unreadable("it is no JSON object")
    token_ids, length = _list(record.get("token_ids")), record.get("prompt_length")
    sampled = sum(1 for mask in _list(record.get("loss_mask")) if mask == 1)
    prompt = token_ids[:length] if isinstance(length, int) and length > 0 else []
    return record, len(token_ids), sampled, lambda: [token_id for token_id in prompt if isinstance(token_id, int)]


def _abilities(record: dict[str, Any]) -> list[str]:
    older = record.get("ability")
    return _names(record.get("abilities", older.split("+") if isinstance(older, str) else []))


def _names(value: Any) -> list[str]:
    return [_clean(str(name)[:LONGEST_ID]) for name in _list(value) if name]


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _dict(value: Any) -> dict[Any, Any]:
    return value if isinstance(value, dict) else {}


def _clean(text: str) -> str:
    """The text with U+FFFD in place of halves of surrogate pairs, which UTF-8 cannot hold."""
    try:
        text.encode()
        return text
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
