"""A model behind an OpenAI-compatible endpoint: messages in, text out. The only module that imports openai."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import openai

from envs.errors import ConversationTooLong, EndpointFailed, EndpointRefused
from envs.runtime.loops import PerLoop

# vLLM, SGLang, llama.cpp and others say it only in the message.
_TOO_LONG = re.compile(r"context (?:length|size|window)|maximum model length|(?:prompt|input) is too long", re.IGNORECASE)

Message = dict[str, Any]
"""One chat message in OpenAI's form: `role` and `content`."""


@dataclass(frozen=True, slots=True)
class RequestedCall:
    """A tool call that the API returned: its id, the tool's name, and the arguments as JSON values."""

    id: str
    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Reply:
    """The assistant's text, and the tool calls that it made through the API.

    `finish_reason` is "length" if the text was cut off, else "stop".
    """

    text: str
    finish_reason: str
    tool_calls: tuple[RequestedCall, ...] = ()


class ChatEndpoint:
    """A client for any event loop. `key` names the environment variable of the key, which may be unset if the server needs none.

    Connection errors, time-outs, 408, 409, 429 and 5xx are tried again, `attempts` times in all, with exponential backoff and
    jitter; each attempt has `timeout_s` seconds.
    """

    def __init__(self, url: str, model: str, *, key: str = "OPENAI_API_KEY", timeout_s: float, attempts: int) -> None:
        self._url, self._model = url, model
        secret = os.environ.get(key) or "none"
        self._clients = PerLoop(
            lambda: openai.AsyncOpenAI(base_url=url, api_key=secret, timeout=timeout_s, max_retries=attempts - 1)
        )

    async def complete(self, messages: Sequence[Message], **sampling: Any) -> Reply:
        """The next assistant message. `sampling` are OpenAI's parameters.

        Raises EndpointFailed if no attempt gave a usable answer, EndpointRefused if the request itself is wrong, of which
        ConversationTooLong is a subclass.
        """
        conversation: Any = list(messages)
        try:
            answer = await self._clients.get().chat.completions.create(model=self._model, messages=conversation, **sampling)
            choice = answer.choices[0]
            text, reason = choice.message.content, choice.finish_reason
            calls = tuple(_call(call) for call in choice.message.tool_calls or ())
        except (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError, openai.BadRequestError) as error:
            kind = ConversationTooLong if _is_too_long(error) else EndpointRefused
            raise kind(f"{self._url} refuses the request ({error.status_code}): {_line(error)}") from error
        except (openai.OpenAIError, ValueError, AttributeError, IndexError, TypeError) as error:
            raise EndpointFailed(f"{self._url} gave no answer: {_line(error)}") from error
        if not isinstance(text, str) and not calls:
            raise EndpointFailed(f"{self._url} answered without text")
        return Reply(text or "", "length" if reason == "length" else "stop", calls)

    async def close(self) -> None:
        """Close the running loop's connections."""
        await self._clients.get().close()


def _call(call: Any) -> RequestedCall:
    """A call whose arguments are not a JSON object keeps them as text under one name, so that the tool can say what is wrong."""
    try:
        arguments = json.loads(call.function.arguments or "{}", strict=False)
    except ValueError:
        arguments = None
    if not isinstance(arguments, dict):
        arguments = {"arguments": call.function.arguments}
    return RequestedCall(call.id, call.function.name, arguments)


def _is_too_long(error: openai.APIStatusError) -> bool:
    """Whether OpenAI's error code says so, or the message of a server that gives no code."""
    return error.status_code == 400 and (error.code == "context_length_exceeded" or bool(_TOO_LONG.search(str(error))))


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
