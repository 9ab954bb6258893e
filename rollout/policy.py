"""The seam between an episode and whatever samples its tokens: one async call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from rollout.tokens.images import EncodedImage
from rollout.types import Generation

if TYPE_CHECKING:
    from envs.chat_endpoint import Message, Reply


class Policy(Protocol):
    """Anything that continues a transcript."""

    async def generate(
        self, token_ids: Sequence[int], images: Sequence[EncodedImage], *, max_tokens: int, temperature: float, seed: int
    ) -> Generation:
        """Sample one turn after `token_ids`, in which each image stands as its run of placeholder tokens, in order."""
        ...


class ChatPolicy(Protocol):
    """A model that speaks in messages and keeps its tokens to itself."""

    async def complete(self, messages: Sequence[Message], *, max_tokens: int, temperature: float, seed: int) -> Reply:
        """The assistant's next text after `messages`. Raises TokenBudgetExceeded where they are too long for the model."""
        ...
