"""A policy behind an OpenAI-compatible endpoint. Teachers and baselines; not what is trained."""

from __future__ import annotations

from collections.abc import Sequence

from envs.errors import ConversationTooLong, EndpointFailed, EndpointRefused, InfrastructureError, TokenBudgetExceeded, UsageError
from envs.protocols.protocol import Schema
from envs.runtime.chat_endpoint import ChatEndpoint, Message, Reply
from rollout.config import EndpointConfig


class Endpoint:
    """One for all episodes of a worker. `version` is 0 and stays so; it is healthy as long as the process lives."""

    version = 0
    healthy = True

    def __init__(self, config: EndpointConfig) -> None:
        self._endpoint = ChatEndpoint(config.url, config.model, timeout_s=config.timeout_s, attempts=config.attempts)

    async def complete(
        self, messages: Sequence[Message], *, max_tokens: int, temperature: float, seed: int, tools: Sequence[Schema] = ()
    ) -> Reply:
        """See `ChatPolicy`. Raises InfrastructureError where the endpoint gives none, TokenBudgetExceeded where the conversation is
        too long for it, UsageError where it refuses for any other reason.
        """
        try:
            offered = {"tools": list(tools)} if tools else {}
            return await self._endpoint.complete(messages, max_tokens=max_tokens, temperature=temperature, seed=seed, **offered)
        except ConversationTooLong as error:
            raise TokenBudgetExceeded(str(error)) from error
        except EndpointRefused as error:
            raise UsageError(str(error)) from error
        except EndpointFailed as error:
            raise InfrastructureError(str(error)) from error

    async def close(self) -> None:
        """Close the connections."""
        await self._endpoint.close()
