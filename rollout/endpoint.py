"""A policy behind an OpenAI-compatible endpoint: messages in, text out. Teachers and baselines; not what is trained."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import openai

from envs.types import InfrastructureError, UsageError
from rollout.config import EndpointConfig


class Endpoint:
    """One connection for all episodes of a worker. `version` is 0 and stays so; it is healthy as long as the process lives.

    The key comes from OPENAI_API_KEY, where the server wants one.
    """

    version = 0
    healthy = True

    def __init__(self, config: EndpointConfig) -> None:
        self._config = config
        # Retries connection errors, time-outs, 408, 409, 429 and 5xx with exponential backoff and jitter.
        self._client = openai.AsyncOpenAI(
            base_url=config.url,
            api_key=os.environ.get("OPENAI_API_KEY") or "none",
            timeout=config.timeout_s,
            max_retries=config.attempts - 1,
        )

    async def complete(self, messages: Sequence[dict[str, Any]], *, max_tokens: int, temperature: float, seed: int) -> str:
        """The next assistant message. Raises InfrastructureError where the endpoint gives none, UsageError where it refuses."""
        asked: Any = list(messages)
        try:
            answer = await self._client.chat.completions.create(
                model=self._config.model, messages=asked, max_tokens=max_tokens, temperature=temperature, seed=seed
            )
            text = answer.choices[0].message.content
        except (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError, openai.BadRequestError) as error:
            raise UsageError(f"{self._config.url} refuses the request ({error.status_code}): {_short(error)}") from error
        except (openai.OpenAIError, ValueError, AttributeError, IndexError, TypeError) as error:
            raise InfrastructureError(f"{self._config.url} gave no answer: {_short(error)}") from error
        if not isinstance(text, str):
            raise InfrastructureError(f"{self._config.url} answered without text")
        return text

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
