"""The token record of one episode: what was sampled is what is trained on, never decoded and encoded again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from envs.errors import TokenBudgetExceeded
from rollout.tokens.chat_format import ChatFormat, Piece
from rollout.tokens.images import EncodedImage
from rollout.types import Episode, Generation, Trajectory, Turn

TRUNCATED = " …[truncated]"


@dataclass(frozen=True, slots=True)
class Seen:
    """What of an observation went into the transcript: the text, possibly truncated, and the images that found room."""

    text: str
    images: tuple[EncodedImage, ...]


class Transcript:
    """Tokens, masks, log-probabilities, versions and images of one episode, grown turn by turn and only ever appended to.

    `token_ids`, `loss_mask`, `logprobs`, `versions` have equal length at all times. `loss_mask` is 1 exactly on sampled tokens.
    `images` follow the runs of image placeholders in `token_ids`. `max_tokens` bounds the whole transcript; an observation leaves
    `reserve_tokens` of it for the action that follows, and takes at most `observation_tokens` of text.
    """

    def __init__(
        self,
        chat: ChatFormat,
        *,
        max_tokens: int,
        reserve_tokens: int = 1,
        observation_tokens: int | None = None,
        system_prompt: str | None = None,
    ) -> None:
        self._chat = chat
        self._max_tokens = max_tokens
        self._reserve = reserve_tokens
        self._observation_tokens = observation_tokens or max_tokens
        self._system_prompt = system_prompt
        self.token_ids: list[int] = []
        self.loss_mask: list[int] = []
        self.logprobs: list[float] = []
        self.versions: list[int] = []
        self.images: list[EncodedImage] = []
        self.prompt_length = 0
        self._turn_open = False

    @property
    def room(self) -> int:
        """Number of tokens that still fit."""
        return self._max_tokens - len(self.token_ids)

    def append_observation(self, text: str, images: Sequence[EncodedImage | Image.Image | np.ndarray] = ()) -> Seen:
        """Add the tokens between the last sampled token and the next one; the first observation becomes the prompt.

        Returns what was taken in. Raises TokenBudgetExceeded, and changes nothing, where the turn's frame alone is too long.
        """
        chat = self._chat
        if not self.token_ids:
            before = chat.opening(self._system_prompt)
        else:
            before = [*([chat.end_of_turn] if self._turn_open else []), *chat.next_turn()]
        after = chat.prompt_end()
        budget = self.room - self._reserve
        seen, added = self._fit(before, text, [chat.images.encode(image) for image in images], after, budget)
        self._extend(added)
        self.images += seen.images
        self._turn_open = False
        if not self.prompt_length:
            self.prompt_length = len(self.token_ids)
        return seen

    def append_generation(self, generation: Generation) -> None:
        """Add sampled tokens. Raises ValueError where log-probabilities are missing or an image placeholder was sampled."""
        token_ids = generation.token_ids
        if len(token_ids) != len(generation.logprobs):
            raise ValueError(f"{len(token_ids)} sampled tokens came with {len(generation.logprobs)} log-probabilities")
        if self._chat.image_token in token_ids:
            raise ValueError("the policy sampled an image placeholder: serve it with the banned token ids masked")
        self.token_ids += token_ids
        self.loss_mask += [1] * len(token_ids)
        self.logprobs += generation.logprobs
        self.versions += [generation.version] * len(token_ids)
        self._turn_open = not token_ids or token_ids[-1] != self._chat.end_of_turn

    def episode(self, turns: list[Turn], **facts: Any) -> Episode:
        """The record of the episode: these tokens, the `turns` that were sampled, and the other fields of `Trajectory`."""
        trajectory = Trajectory(
            token_ids=self.token_ids,
            loss_mask=self.loss_mask,
            logprobs=self.logprobs,
            versions=self.versions,
            prompt_length=self.prompt_length,
            images=[image.sha256 for image in self.images],
            turns=turns,
            **facts,
        )
        return Episode((trajectory,), {image.sha256: image.png for image in self.images})

    def _extend(self, token_ids: list[int]) -> None:
        count = len(token_ids)
        self.token_ids += token_ids
        self.loss_mask += [0] * count
        self.logprobs += [0.0] * count
        self.versions += [-1] * count

    def _fit(
        self, before: list[Piece], text: str, images: list[EncodedImage], after: list[Piece], budget: int
    ) -> tuple[Seen, list[int]]:
        """Images are kept in order while they fit beside the frame and a truncation mark; text fills what is left."""
        chat = self._chat

        def assemble(body: str, kept: list[EncodedImage]) -> list[int]:
            pieces = list(before)
            for image in kept:
                pieces += chat.image_pieces(chat.image_tokens(*image.pixels.shape[:2]))
            return chat.encode([*pieces, body, *after])

        kept: list[EncodedImage] = []
        for image in images:
            if chat.accepts(image.pixels) and len(assemble(TRUNCATED, [*kept, image])) <= budget:
                kept.append(image)
        if len(kept) < len(images):
            text = f"[{len(images) - len(kept)} of {len(images)} images left out]\n{text}"
        text_room = min(self._observation_tokens, budget - len(assemble("", kept)))
        while True:
            body = self._shorten(text, text_room)
            added = assemble(body, kept)
            if len(added) <= budget:
                return Seen(body, tuple(kept)), added
            if not body:
                raise TokenBudgetExceeded(f"the next turn needs {len(added)} tokens, {max(budget, 0)} are left")
            # Tokens may merge differently beside the frame than alone.
            text_room -= len(added) - budget

    def _shorten(self, text: str, tokens: int) -> str:
        """`text`, or its head with a truncation mark where it has over `tokens` tokens, or nothing where not even the mark fits."""
        head_tokens = tokens - self._chat.count(TRUNCATED)
        if self._chat.count(text) <= tokens:
            return text
        return self._chat.cut(text, head_tokens) + TRUNCATED if head_tokens >= 0 else ""
