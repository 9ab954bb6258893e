"""A model behind an OpenAI-compatible endpoint: messages in, text out. The only module that imports openai."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import openai

from envs.errors import ConversationTooLong, EndpointFailed, EndpointRefused, EndpointUnusable
from envs.runtime.loops import PerLoop
from envs.runtime.refusals import Message, RequestForm, is_for_every_request, is_too_long, takes_no_pictures, takes_no_tools

log = logging.getLogger(__name__)

_REASONING = ("reasoning_content", "reasoning", "thinking")
_CUT_OFF = ("length", "max_tokens", "MAX_TOKENS", "model_length")


@dataclass(frozen=True, slots=True)
class RequestedCall:
    """A tool call that the API returned: its id, the tool's name, and the arguments as JSON values."""

    id: str
    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Reply:
    """The assistant's text, and the tool calls that it made through the API. A refusal in the API's own field is the text.

    The text is "" if there is none: the model thought until its tokens were spent, or had nothing to say. `reasoning` are the
    thoughts that the API keeps apart from it. `finish_reason` is "length" if the text was cut off, else "stop". `tokens_in` and
    `tokens_out` are the API's count of the prompt and of the reply, thoughts included; None if it does not say.
    """

    text: str
    finish_reason: str
    tool_calls: tuple[RequestedCall, ...] = ()
    reasoning: str = ""
    tokens_in: int | None = None
    tokens_out: int | None = None


class _Reported(Exception):
    """An error that a server reports with status 200, as OpenRouter does once it has begun to answer."""

    def __init__(self, message: str, status: int, body: object) -> None:
        super().__init__(message)
        self.status_code, self.body = status, body


_Said = openai.APIStatusError | _Reported


class ChatEndpoint:
    """A client for any event loop. `key` names the environment variable of the key, which may be unset if the server needs none.

    Connection errors, time-outs, 408, 409, 429 and 5xx are tried again, `attempts` times in all, with exponential backoff and
    jitter; each attempt has `timeout_s` seconds. Parameters in `omit` are never sent, those in `rename` under another name, and
    those in `extra` always, as they are. If the endpoint refuses a parameter or the system prompt, the request is made again
    without, as are all later ones; `notes` say so.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        key: str = "OPENAI_API_KEY",
        timeout_s: float,
        attempts: int,
        omit: Sequence[str] = (),
        rename: Mapping[str, str] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        self._url, self._model, self._extra = url, model, dict(extra or {})
        self._form = RequestForm(set(omit), dict(rename or {}))
        secret = os.environ.get(key) or "none"
        self._clients = PerLoop(
            lambda: openai.AsyncOpenAI(base_url=url, api_key=secret, timeout=timeout_s, max_retries=attempts - 1)
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """What was learned about the requests that the endpoint takes, a sentence each."""
        return tuple(f"{self._url}: {note}" for note in self._form.notes)

    async def complete(self, messages: Sequence[Message], **sampling: Any) -> Reply:
        """The next assistant message. `sampling` are OpenAI's parameters.

        Raises EndpointFailed if no attempt gave an answer, EndpointRefused if this request is refused, of which
        ConversationTooLong and, if every other one would be refused too, EndpointUnusable are subclasses.
        """
        while True:
            known = len(self._form.notes)
            try:
                return await self._ask(messages, sampling)
            except (openai.APIStatusError, _Reported) as error:
                if len(self._form.notes) > known:  # another request has learned meanwhile
                    continue
                refusal = self._refusal(error, sampling)
                if type(refusal) is EndpointRefused and self._learned(error, messages, sampling):
                    continue
                raise refusal from error
            except (openai.OpenAIError, ValueError, AttributeError, IndexError, TypeError) as error:
                reason = _no_completion(error.doc) if isinstance(error, json.JSONDecodeError) else _line(_said_by_network(error))
                raise EndpointFailed(f"{self._url} gave no answer: {reason}") from error

    async def close(self) -> None:
        """Close the running loop's connections."""
        await self._clients.get().close()

    async def _ask(self, messages: Sequence[Message], sampling: Mapping[str, Any]) -> Reply:
        conversation: Any = self._form.messages(messages)
        # In the body as they are: the client itself takes only the names that OpenAI knows.
        body = self._form.parameters(sampling) | self._extra
        answer = await self._clients.get().chat.completions.create(model=self._model, messages=conversation, extra_body=body)
        choices = getattr(answer, "choices", None)
        if not isinstance(choices, list) or not choices or getattr(choices[0], "message", None) is None:
            raise _reported(answer)
        choice, message = choices[0], choices[0].message
        if choice.finish_reason == "error":
            raise _reported(choice)
        reasoning = next((text for name in _REASONING if isinstance(text := getattr(message, name, None), str)), "")
        text = _text(message.content) or (getattr(message, "refusal", None) or "")
        reason = "length" if choice.finish_reason in _CUT_OFF else "stop"
        return Reply(text, reason, _calls(message), reasoning, *_usage(answer))

    def _learned(self, error: _Said, messages: Sequence[Message], sampling: Mapping[str, Any]) -> bool:
        known = len(self._form.notes)
        learned = self._form.learn(_said(error), getattr(error, "param", None), messages, sampling)
        for note in self._form.notes[known:]:
            log.warning("%s: %s", self._url, note)
        return learned

    def _refusal(self, error: _Said, sampling: Mapping[str, Any]) -> EndpointRefused | EndpointFailed:
        status, said = error.status_code, _said(error)
        message = f"{self._url} refuses the request ({status}): {_line(error)}"
        if takes_no_tools(said, sampling):
            return EndpointUnusable(f"{message}: write +options.protocol=hermes, which needs no tools= of the API")
        if takes_no_pictures(said):
            return EndpointRefused(message)
        if is_for_every_request(status, said):
            return EndpointUnusable(message)
        if status in (408, 409, 425, 429) or status >= 500:
            return EndpointFailed(f"{self._url} gave no answer: {_line(error)}")
        if is_too_long(said, getattr(error, "code", None)):
            return ConversationTooLong(message)
        return EndpointRefused(message)


def _reported(answer: Any) -> Exception:
    """The error that an answer without a message reports; its code is read as a status."""
    error = getattr(answer, "error", None)
    if not error:
        return ValueError(_no_completion(answer))
    message, code = (error.get("message"), error.get("code")) if isinstance(error, Mapping) else (error, None)
    return _Reported(str(message), int(str(code)) if str(code).isdecimal() else 500, error)


def _no_completion(answer: object) -> str:
    return f"its reply is no chat completion: {_line(answer)[:80]!r} (is the address right? most end in /v1)"


def _said(error: _Said) -> str:
    """All that the server said: its message, and the body for servers that put it elsewhere."""
    return f"{error} {json.dumps(error.body, default=str) if error.body is not None else ''}"


def _usage(answer: Any) -> tuple[int | None, int | None]:
    """The tokens of the prompt and of the reply, as far as the server counts them. A server that counts none in the prompt does not
    count: some fill the field with zeros."""
    counts = (getattr(getattr(answer, "usage", None), name, None) for name in ("prompt_tokens", "completion_tokens"))
    tokens_in, tokens_out = (count if isinstance(count, int) and count >= 0 else None for count in counts)
    return (tokens_in, tokens_out) if tokens_in else (None, None if tokens_in == 0 else tokens_out)


def _text(content: Any) -> str:
    """The text of a message's content, which some servers give in parts."""
    if isinstance(content, Mapping):
        content = [content]
    if isinstance(content, Sequence) and not isinstance(content, str):
        parts = [part if isinstance(part, Mapping) else {"text": part} for part in content]
        return "".join(str(part.get("text") or "") for part in parts if part.get("type") in (None, "text", "output_text"))
    return content if isinstance(content, str) else ""


def _calls(message: Any) -> tuple[RequestedCall, ...]:
    """The calls of a message, also those in the older field `function_call`."""
    older = getattr(message, "function_call", None)
    calls = [_call("", older)] if older is not None else []
    given = message.tool_calls
    for call in given if isinstance(given, list) else [given] if given else []:
        calls.append(_call(getattr(call, "id", None) or "", getattr(call, "function", None) or getattr(call, "custom", None)))
    return tuple(calls)


def _call(identifier: str, function: Any) -> RequestedCall:
    """A call whose arguments are not a JSON object keeps them as text under one name, so that the tool can say what is wrong. One
    without a name has the name ""."""
    given = getattr(function, "arguments", None) or getattr(function, "input", None)
    try:
        arguments = given if isinstance(given, dict) else json.loads(given or "{}", strict=False)
    except (ValueError, TypeError):
        arguments = None
    if not isinstance(arguments, dict):
        arguments = {"arguments": given}
    return RequestedCall(identifier, str(getattr(function, "name", None) or ""), arguments)


def _said_by_network(error: Exception) -> str:
    """An error's text; of a connection that failed what its innermost cause says, of which the client tells nothing."""
    said, cause = str(error), error
    if isinstance(error, openai.APIConnectionError) and not isinstance(error, openai.APITimeoutError):
        while cause := cause.__cause__ or cause.__context__:
            said = str(cause) or said
    return said


def _line(error: object) -> str:
    return " ".join(str(error).split())[:200]
