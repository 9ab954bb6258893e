"""One demonstration that a teacher tried: what came of it, why it was rejected, and when two of them are equal."""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from curation.verify import is_verified
from envs.protocols import Answer, Call, Calls, Malformed, Protocol
from rollout.tokens.chat_format import ChatMessage
from rollout.types import Episode, StopReason


class Reason(StrEnum):
    """Why a demonstration is rejected."""

    wrong_answer = "wrong_answer"
    no_answer = "no_answer"
    failed_call = "failed_call"
    malformed_turn = "malformed_turn"
    refused = "refused"
    failed = "failed"
    unjudged = "unjudged"
    duplicate = "duplicate"
    surplus = "surplus"


MEANINGS = {
    Reason.wrong_answer: "the answer is wrong",
    Reason.no_answer: "there is no answer: turns, tokens or time ran out, or the teacher gave up",
    Reason.failed_call: "a tool call failed",
    Reason.malformed_turn: "a turn is no action of the student's protocol",
    Reason.refused: "the question could not be put to the teacher",
    Reason.failed: "an endpoint or a machine failed; resume=true tries it again",
    Reason.unjudged: "the judge gave no verdict; resume=true asks it again",
    Reason.duplicate: "another demonstration takes the same actions on the same task",
    Reason.surplus: "there are enough of its ability and difficulty",
}

AGAIN = (Reason.failed, Reason.unjudged)
"""What says nothing about the teacher: `resume=true` plays it again, with the replies that are known."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """A demonstration that has ended.

    `place` orders the attempts: the number of the question, then that of the sample. `reason` is None if it is verified; `detail`
    says more. `actions` is equal for equal demonstrations. `tokens` is its length in the student's tokens. `row` is its row of
    `curation.rows`.
    """

    episode_id: str
    place: tuple[int, int]
    teacher: str
    task_id: str
    ability: str
    difficulty: str
    reason: Reason | None
    detail: str
    actions: str
    tokens: int
    row: dict[str, Any]

    def to_record(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Attempt:
        """The inverse of `to_record`."""
        record = dict(record)
        reason, place = record.pop("reason"), record.pop("place")
        return cls(**record, place=tuple(place), reason=None if reason is None else Reason(reason))


def judged(episode: Episode, protocol: Protocol, actions: Sequence[str]) -> tuple[Reason | None, str]:
    """Why an episode is no demonstration, and what it says about it; None if it is verified.

    `actions` are its turns as the protocol reads them.
    """
    trajectory = episode.trajectory
    if trajectory.failed:
        return Reason.failed, trajectory.error or ""
    if trajectory.unplayed:
        return Reason.refused, trajectory.error or ""
    if trajectory.stop_reason is not StopReason.ANSWERED:
        return Reason.no_answer, ": ".join(filter(None, [str(trajectory.stop_reason), trajectory.cut]))
    if trajectory.reward_parts.get("judge_no_verdict"):
        return Reason.unjudged, trajectory.answer or ""
    if not trajectory.correct:
        return Reason.wrong_answer, trajectory.answer or ""
    for number, turn in enumerate(trajectory.turns, 1):
        if not turn.succeeded:
            failed = next(call for call in turn.tool_calls if call.status != "ok")
            return Reason.failed_call, f"turn {number}: {failed.tool}: {failed.status}"
    assert is_verified(trajectory)
    for number, action in enumerate(actions, 1):
        if isinstance(parsed := protocol.parse(action), Malformed):
            return Reason.malformed_turn, f"turn {number}: {parsed.reason}"
        if isinstance(parsed, Answer) and number < len(actions):
            return Reason.malformed_turn, f"turn {number}: it was cut off before its end"
    return None, ""


def identity(asked: Sequence[ChatMessage], protocol: Protocol, actions: Sequence[str]) -> str:
    """Equal for two demonstrations of the same task that take the same actions.

    The task is what was first shown: the text and the pictures. Thoughts do not count. Calls are the same if tool and arguments
    are; code, if it is the same program after parsing, so that comments and layout do not count; answers, but for case and spaces.
    """
    task = [[message.role, message.text, [image.sha256 for image in message.images]] for message in asked]
    done = [_action(protocol.parse(action)) for action in actions]
    return hashlib.sha256(json.dumps([task, done], sort_keys=True).encode()).hexdigest()


def _action(action: object) -> list[Any]:
    match action:
        case Calls(calls):
            return ["calls", *map(_call, calls)]
        case Answer(text):
            return ["answer", " ".join(text.split()).casefold()]
    return ["malformed"]


def _call(call: Call) -> list[Any]:
    arguments = {name: _program(value) if name == "code" else value for name, value in call.arguments.items()}
    return [call.name, arguments]


def _program(code: Any) -> Any:
    try:
        return ast.dump(ast.parse(code))
    except (SyntaxError, ValueError, TypeError, RecursionError):
        return code
