"""A sample of an Inspect log: an episode's messages, events and scores, with its images and long texts as attachments."""

from __future__ import annotations

import base64
import hashlib
import textwrap
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from interop.exporting.conversation import Conversation, Message, ToolUse, Turn
from interop.exporting.writing import Writer, facts
from rollout.types import StopReason

_LONG = 100  # characters of a text of an event, from which on it is an attachment
_THIN, _LONGEST = 1024, 5120  # characters of a text in a summary, and of one of the question's
_ERRORS = {"timeout": "timeout", "error": "unknown", "unavailable": "unknown", "failure": "sandbox_unavailable"}
_LIMITS = {
    StopReason.TURN_LIMIT: ("turn", "max_turns"),
    StopReason.TOKEN_LIMIT: ("token", "max_tokens"),
    StopReason.TIME_LIMIT: ("time", "episode_s"),
}


class InspectSample:
    """An episode as a sample; `begun` is when its file was last changed."""

    def __init__(self, conversation: Conversation, writer: Writer, begun: datetime) -> None:
        self._conversation, self._writer, self._begun = conversation, writer, begun
        self._attachments: dict[str, str] = {}
        self._elapsed_s, self._events = 0.0, 0
        self._model = writer.source.policy

    def json(self, task: str, epoch: int) -> dict[str, Any]:
        """The sample as plain values, the `epoch`-th of its task."""
        conversation, record = self._conversation, self._conversation.record
        prompt = [self._message(number, message) for number, message in enumerate(conversation.prompt)]
        messages, events, last = list(prompt), [], None
        news = list(prompt)
        for number, turn in enumerate(conversation.turns, 1):
            assistant = self._assistant(number, turn)
            last = self._output(assistant, turn)
            events.append(self._model_event(news, assistant, turn))
            news = self._shown(number, turn)
            events += self._tool_events(turn, news)
            messages += [assistant, *news]
        scores = None if record.failed else self._scores()
        usage = self._usage()
        return {
            "id": task,
            "epoch": epoch,
            "input": prompt,
            "target": "",
            "messages": messages,
            "output": last or {"model": self._model, "choices": [], "completion": ""},
            "scores": scores,
            "metadata": facts(conversation, self._writer.source.label),
            "store": {},
            "events": events,
            "model_usage": {self._model: usage},
            "role_usage": {},
            "started_at": self._begun.isoformat(),
            "completed_at": self._time(),
            "total_time": self._elapsed_s,
            "working_time": self._elapsed_s,
            "uuid": self._id("sample"),
            "turn_count": len(conversation.turns),
            "attachments": self._attachments,
        } | self._end()

    def _end(self) -> dict[str, Any]:
        """The error or the limit that ended the episode, if one did."""
        record = self._conversation.record
        if record.error is not None:
            return {"error": {"message": record.error, "traceback": "", "traceback_ansi": ""}}
        if record.stop_reason not in _LIMITS:
            return {}
        kind, setting = _LIMITS[record.stop_reason]
        rollout = self._writer.source.settings.get("rollout") or {}
        known = (rollout.get("episode") or {}).get(setting)
        reached = {"turn": len(record.turns), "token": len(record.token_ids), "time": self._elapsed_s}
        return {"limit": {"type": kind, "limit": known or reached[kind], "reason": record.cut or str(record.stop_reason)}}

    def _message(self, number: int, message: Message) -> dict[str, Any]:
        return {
            "id": self._id(f"m{number}"),
            "role": message.role,
            "content": self._content(message.text, message.images),
            "source": "input",
        }

    def _assistant(self, number: int, turn: Turn) -> dict[str, Any]:
        content: Any = turn.said
        if turn.reasoning:
            content = [{"type": "reasoning", "reasoning": turn.reasoning, "redacted": False}, {"type": "text", "text": turn.said}]
        calls = [{"id": use.id, "function": use.name, "arguments": use.arguments, "type": "function"} for use in turn.calls]
        return {
            "id": self._id(f"a{number}"),
            "role": "assistant",
            "content": content,
            "source": "generate",
            "model": self._model,
        } | ({"tool_calls": calls} if calls else {})

    def _shown(self, number: int, turn: Turn) -> list[dict[str, Any]]:
        """What followed a turn: a message of the role tool for each call, or one of the user."""
        if not turn.calls:
            return [
                {"id": self._id(f"u{number}"), "role": "user", "content": self._content(message.text, message.images)}
                for message in turn.results
            ]
        made = []
        for place, use in enumerate(turn.calls):
            content = self._content(*_result(turn, place))
            message = {"id": self._id(f"t{number}_{place}"), "role": "tool", "content": content, "tool_call_id": use.id}
            error = {"error": error} if (error := _error(use)) else {}
            made.append({**message, "function": use.name, **error})
        return made

    def _output(self, assistant: dict[str, Any], turn: Turn) -> dict[str, Any]:
        record = self._conversation.record
        is_last = turn is self._conversation.turns[-1]
        cut = is_last and record.stop_reason is StopReason.TOKEN_LIMIT
        choice = {"message": assistant, "stop_reason": "max_tokens" if cut else "tool_calls" if turn.calls else "stop"}
        return {"model": self._model, "choices": [choice], "completion": turn.said, "time": turn.generate_s}

    def _model_event(self, news: list[dict[str, Any]], assistant: dict[str, Any], turn: Turn) -> dict[str, Any]:
        started = self._event("model")
        self._elapsed_s += turn.generate_s
        output = self._output(assistant, turn)
        sampled = turn.sampled
        metadata = {}
        if sampled is not None:
            read, wrote = len(sampled.prompt_ids), len(sampled.token_ids)
            output["usage"] = {"input_tokens": read, "output_tokens": wrote, "total_tokens": read + wrote}
            metadata = {"policy_versions": sorted(set(sampled.versions))}
            if self._writer.config.tokens:
                tokenizer = self._writer.source.chat.tokenizer
                pairs = zip(sampled.token_ids, sampled.logprobs, strict=True)
                content = [{"token": tokenizer.decode([token]), "logprob": logprob} for token, logprob in pairs]
                output["choices"] = [output["choices"][0] | {"logprobs": {"content": content}}]
        return self._attached(
            {
                **started,
                "model": self._model,
                "input": news,
                "tools": [],
                "tool_choice": "auto",
                "config": {"temperature": self._conversation.record.temperature},
                "output": output,
                "metadata": metadata,
                "completed": self._time(),
                "working_time": turn.generate_s,
            }
        )

    def _tool_events(self, turn: Turn, shown: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Calls of one turn run at the same time."""
        begun_s, ends = self._elapsed_s, [self._elapsed_s]
        for use, message in zip(turn.calls, shown, strict=False):
            self._elapsed_s = begun_s
            event = self._event("tool")
            self._elapsed_s += use.latency_s
            ends.append(self._elapsed_s)
            error = {"error": message["error"], "failed": True} if "error" in message else {}
            yield self._attached(
                {
                    **event,
                    "type": "function",
                    "id": use.id,
                    "function": use.name,
                    "arguments": use.arguments,
                    "result": message["content"],
                    "events": [],
                    "completed": self._time(),
                    "working_time": use.latency_s,
                    "message_id": message["id"],
                    "metadata": {"status": use.status or "not carried out"},
                    **error,
                }
            )
        self._elapsed_s = max(ends)

    def _event(self, kind: str) -> dict[str, Any]:
        """The fields of every event. A record has durations and no clock: the file's last change stands for the beginning."""
        self._events += 1
        return {"event": kind, "uuid": self._id(f"e{self._events}"), "timestamp": self._time(), "working_start": self._elapsed_s}

    def _time(self) -> str:
        return (self._begun + timedelta(seconds=self._elapsed_s)).isoformat()

    def _id(self, part: str) -> str:
        return hashlib.sha256(f"{self._conversation.name}/{self._conversation.record.episode_id}/{part}".encode()).hexdigest()[:22]

    def _content(self, text: str, images: tuple[str, ...]) -> Any:
        if not images:
            return text
        return [*map(self._image, images), {"type": "text", "text": text}]

    def _image(self, sha: str) -> dict[str, Any]:
        path = self._writer.source.image(sha)
        if path is None:
            return {"type": "text", "text": f"[the image {sha[:12]} is missing]"}
        if sha[:32] not in self._attachments:
            self._attachments[sha[:32]] = f"data:image/png;base64,{base64.b64encode(Path(path).read_bytes()).decode()}"
        return {"type": "image", "image": f"attachment://{sha[:32]}", "detail": "auto"}

    def _attached(self, value: Any) -> Any:
        """A value of an event, with long texts as attachments."""
        if isinstance(value, str):
            if len(value) <= _LONG or value.startswith("attachment://"):
                return value
            key = hashlib.sha256(value.encode("utf-8", "backslashreplace")).hexdigest()[:32]
            self._attachments[key] = value
            return f"attachment://{key}"
        if isinstance(value, dict):
            return {name: self._attached(entry) for name, entry in value.items()}
        return [self._attached(entry) for entry in value] if isinstance(value, list) else value

    def _scores(self) -> dict[str, Any]:
        record = self._conversation.record
        values = {"reward": record.reward, **facts(self._conversation, "")["reward_parts"]}
        answer = {} if record.answer is None else {"answer": record.answer}
        return {name: {"value": value, **answer, "history": []} for name, value in values.items() if value is not None}

    def _usage(self) -> dict[str, int]:
        sampled = [turn.sampled for turn in self._conversation.turns if turn.sampled is not None]
        read, wrote = sum(len(one.prompt_ids) for one in sampled), sum(len(one.token_ids) for one in sampled)
        return {"input_tokens": read, "output_tokens": wrote, "total_tokens": read + wrote}


def _result(turn: Turn, place: int) -> tuple[str, tuple[str, ...]]:
    """Text and images of the result of a call; if results cannot be told apart, all stand with the first."""
    if place < len(turn.results):
        return turn.results[place].text, turn.results[place].images
    return "", ()


def _error(use: ToolUse) -> dict[str, Any] | None:
    if use.status == "ok":
        return None
    return {"type": _ERRORS.get(use.status or "", "unknown"), "message": use.status or "not carried out"}


def summary(sample: dict[str, Any]) -> dict[str, Any]:
    """A sample without what is large, as `EvalSample.summary` has it."""
    names = ("id", "epoch", "target", "model_usage", "role_usage", "started_at", "completed_at", "total_time", "working_time")
    scores = sample["scores"] and {
        name: {**score, "answer": _thin(score["answer"])} if "answer" in score else score
        for name, score in sample["scores"].items()
    }
    return {name: sample[name] for name in (*names, "uuid", "turn_count")} | {
        "input": [{**message, "content": _thin_content(message["content"])} for message in sample["input"]],
        "metadata": {name: _thin(value) if isinstance(value, str) else value for name, value in sample["metadata"].items()},
        "scores": scores,
        "error": sample["error"]["message"] if "error" in sample else None,
        "limit": sample["limit"]["type"] if "limit" in sample else None,
        "limit_reason": sample["limit"]["reason"] if "limit" in sample else None,
        "completed": True,
        "message_count": len(sample["messages"]),
    }


def _thin_content(content: Any) -> Any:
    if isinstance(content, str):
        return _cut(content)
    return [{"type": "text", "text": _cut(part["text"]) if part["type"] == "text" else "(Image)"} for part in content]


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}...\n(content truncated)"


def _thin(text: str) -> str:
    return textwrap.shorten(text[: 8 * _THIN], width=_THIN, placeholder="...")
