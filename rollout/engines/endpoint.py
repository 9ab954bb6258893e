"""A policy behind an OpenAI-compatible endpoint: teachers and baselines, not what is trained."""

from __future__ import annotations

from collections.abc import Sequence

from envs.errors import ConversationTooLong, EndpointFailed, EndpointUnusable, InfrastructureError, TokenBudgetExceeded, UsageError
from envs.protocols.protocol import Schema
from envs.runtime.chat_endpoint import ChatEndpoint, Message, Reply
from rollout.config import EndpointConfig, RolloutConfig


class Endpoint:
    """A `rollout.policy.ChatPolicy`, one for all episodes of a worker. Its version stays 0, and it is always healthy."""

    version = 0
    healthy = True

    def __init__(self, config: RolloutConfig, version: int = 0) -> None:
        settings = config.endpoint
        self._endpoint = ChatEndpoint(
            settings.url,
            settings.model,
            key=settings.key,
            timeout_s=settings.timeout_s,
            attempts=settings.attempts,
            omit=settings.omit,
            rename=settings.rename,
            extra=settings.extra,
        )

    @classmethod
    def of(cls, settings: EndpointConfig) -> Endpoint:
        """The endpoint of these settings, for whoever has no other of a rollout."""
        return cls(RolloutConfig(endpoint=settings))

    @property
    def notes(self) -> tuple[str, ...]:
        """What was learned about the requests that the endpoint takes, a sentence each."""
        return self._endpoint.notes

    async def complete(
        self, messages: Sequence[Message], *, max_tokens: int, temperature: float, seed: int, tools: Sequence[Schema] = ()
    ) -> Reply:
        """See `ChatPolicy`.

        Raises InfrastructureError if the endpoint gives no answer, TokenBudgetExceeded if the conversation is too long for it,
        EndpointRefused if it refuses this conversation for another reason, UsageError if it would refuse any.
        """
        try:
            offered = {"tools": list(tools)} if tools else {}
            return await self._endpoint.complete(messages, max_tokens=max_tokens, temperature=temperature, seed=seed, **offered)
        except ConversationTooLong as error:
            raise TokenBudgetExceeded(str(error)) from error
        except EndpointUnusable as error:
            raise UsageError(str(error)) from error
        except EndpointFailed as error:
            raise InfrastructureError(str(error)) from error

    async def close(self) -> None:
        """Close the connections."""
        await self._endpoint.close()
