"""The seam between a worker and whatever samples: everything that the worker, and the episodes that it runs, ask of a policy.

A class that provides this is chosen as `rollout.engine.kind=module:Class`; see `rollout.engines.registry`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from rollout.config import Thoughts
from rollout.tokens.images import EncodedImage
from rollout.types import Generation

if TYPE_CHECKING:
    import torch

    from envs.protocols.protocol import Schema
    from envs.runtime.chat_endpoint import Message, Reply
    from rollout.tokens.chat_format import ChatFormat


class Served(Protocol):
    """What every policy of a worker has. All of it is called in the worker's event loop."""

    @property
    def version(self) -> int:
        """The version of the weights that are served now."""
        ...

    @property
    def healthy(self) -> bool:
        """Whether calls can still be answered. False is final: the worker exits, and the fleet starts another."""
        ...

    async def close(self) -> None:
        """Give back what the policy holds. May be called twice."""
        ...


class Policy(Served, Protocol):
    """A policy that continues a sequence of tokens. Any number of calls may be pending at a time."""

    async def generate(
        self,
        token_ids: Sequence[int],
        images: Sequence[EncodedImage],
        *,
        max_tokens: int,
        temperature: float,
        seed: int,
        stop: Sequence[str] = (),
    ) -> Generation:
        """Sample one turn after `token_ids`, in which each image stands as its run of placeholder tokens, in order.

        The turn ends with the end-of-turn token, with the token that completes one of the texts in `stop`, or after `max_tokens`.
        Raises InfrastructureError if the engine fails.
        """
        ...

    async def publish(self, state: Mapping[str, torch.Tensor], version: int) -> None:
        """Serve `state` (Hugging Face names and tensors) as `version`; returns when every later call is sampled from it.

        The tensors lie in shared memory, which a later update overwrites: they are copied, not kept. After an error nothing is
        served any more, and `healthy` is False.
        """
        ...


@runtime_checkable
class HasSessions(Protocol):
    """A policy that serves the turns of an episode best if it knows that they belong together."""

    def session(self, episode_id: str) -> Policy:
        """The policy as one episode sees it. Nothing has to be closed."""
        ...


class ChatPolicy(Served, Protocol):
    """A model that speaks in messages and keeps its tokens to itself. It takes no new weights."""

    async def complete(
        self, messages: Sequence[Message], *, max_tokens: int, temperature: float, seed: int, tools: Sequence[Schema] = ()
    ) -> Reply:
        """The assistant's next text after `messages`, or its calls of `tools`.

        Raises TokenBudgetExceeded if they are too long for the model, InfrastructureError if there is no answer.
        """
        ...


@runtime_checkable
class Teaches(Protocol):
    """A chat policy that is asked in a form of its own, whatever the student's transcript shows.

    `native` says that it is given the API's `tools`: its calls are written in the student's protocol. `thoughts` says which of its
    thoughts are.
    """

    native: bool
    thoughts: Thoughts

    def teacher_prompt(self, explained: str) -> str | None:
        """Its system prompt. `explained` are the protocol's instructions; "" if the API shows the tools."""
        ...


@runtime_checkable
class BringsChatFormat(Protocol):
    """A policy that knows its own chat format, which is read from the directory `rollout.engine.policy` otherwise."""

    def chat_format(self) -> ChatFormat:
        """The chat template and tokenizer that transcripts are written with."""
        ...
