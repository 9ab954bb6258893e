"""The seam between an episode and whatever samples its tokens: one async call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from rollout.tokens.images import EncodedImage
from rollout.types import Generation

if TYPE_CHECKING:
    from envs.protocols.protocol import Schema
    from envs.runtime.chat_endpoint import Message, Reply


class Policy(Protocol):
    """Anything that continues a transcript."""

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

        It ends with the end-of-turn token, or with the token that completes one of the texts in `stop`.
        """
        ...


class ChatPolicy(Protocol):
    """A model that speaks in messages and keeps its tokens to itself."""

    async def complete(
        self, messages: Sequence[Message], *, max_tokens: int, temperature: float, seed: int, tools: Sequence[Schema] = ()
    ) -> Reply:
        """The assistant's next text after `messages`, or its calls of `tools`.

        Raises TokenBudgetExceeded if they are too long for the model.
        """
        ...
