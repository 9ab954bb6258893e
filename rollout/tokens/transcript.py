"""The token record of one episode: what was sampled is what is trained on, never decoded and encoded again.

Most chat templates only append: a longer conversation begins with the tokens of the shorter one, and an episode is one row. Some
rewrite earlier turns: those of thinking models drop old `<think>` blocks once the conversation goes on. Then the tokens that the
policy was shown at its next turn are not those that it sampled before, and one row cannot hold both. With
`history=History.template` the policy is always shown exactly what the template renders, and each rewriting begins a new *chain*: a
row of its own that holds the rewritten prompt (not trained) and what was sampled behind it (trained). With
`history=History.append` earlier turns stay as they were sampled, thoughts included, and there is one chain.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import islice
from typing import Any

import numpy as np

from envs.errors import TokenBudgetExceeded, UsageError
from rollout.config import History
from rollout.tokens.chat_format import ChatFormat, ChatMessage, Piece
from rollout.tokens.images import EncodedImage, Frame, encoded_image
from rollout.types import Episode, Generation, Trajectory, Turn

log = logging.getLogger(__name__)

TRUNCATED = " …[truncated]"
_CHARACTERS = 256
"""More than a token stands for: of a text only as much is tokenized as can fit, since megabytes take minutes and gigabytes."""
_SIDE = 28  # pixels a side of the smallest image that a question is shown with
_RATIOS = (180, 90, 45, 20, 10, 4, 2)  # of an image's sides: the first that the image processor takes is the most extreme shown


@dataclass(slots=True)
class Chain:
    """A row of tokens that only ever grows. Its four lists have equal length at all times; `images` follow the runs of image
    placeholders in `token_ids`. `turns` counts the actions that were sampled in it."""

    token_ids: list[int] = field(default_factory=list)
    loss_mask: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)
    images: list[EncodedImage] = field(default_factory=list)
    prompt_length: int = 0
    turns: int = 0

    def show(self, token_ids: list[int], images: Sequence[EncodedImage]) -> None:
        """Add tokens that nobody sampled."""
        self.token_ids += token_ids
        self.loss_mask += [0] * len(token_ids)
        self.logprobs += [0.0] * len(token_ids)
        self.versions += [-1] * len(token_ids)
        self.images += images
        self.prompt_length = self.prompt_length or len(self.token_ids)


class Transcript:
    """Tokens, masks, log-probabilities, versions and images of one episode, grown turn by turn.

    `max_tokens` bounds each chain; an observation leaves `reserve_tokens` of it for the action that follows, and takes at most
    `observation_tokens` of text. `tools` are shown through the chat template.
    """

    def __init__(
        self,
        chat: ChatFormat,
        *,
        max_tokens: int,
        reserve_tokens: int = 1,
        observation_tokens: int | None = None,
        system_prompt: str | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        history: History = History.template,
    ) -> None:
        self._chat = chat
        self._max_tokens = max_tokens
        self._reserve = reserve_tokens
        self._observation_tokens = observation_tokens or max_tokens
        self._tools = tools
        self._appends = history is History.append
        self._messages = [] if system_prompt is None else [ChatMessage("system", system_prompt)]
        self._pieces: list[Piece] = []
        self._sampled: list[int] = []
        self._acted = False  # since the last observation, be it with a turn of no tokens
        self.chains = [Chain()]

    @property
    def token_ids(self) -> list[int]:
        """The tokens that the policy is shown: those of the latest chain."""
        return self.chains[-1].token_ids

    @property
    def images(self) -> list[EncodedImage]:
        """The images that the policy is shown."""
        return self.chains[-1].images

    @property
    def sampled_tokens(self) -> int:
        """Number of tokens that were sampled, in all chains."""
        return sum(sum(chain.loss_mask) for chain in self.chains)

    @property
    def room(self) -> int:
        """Number of tokens that still fit."""
        return self._max_tokens - len(self.token_ids)

    def append_observation(self, messages: Sequence[ChatMessage]) -> list[ChatMessage]:
        """Add what stands between the last sampled token and the next one; the first observation becomes the prompt.

        Returns the messages as they were taken in: text possibly truncated, images that found no room, or that the policy does not
        take, left out and counted in the text. Images of the first observation are never left out: they are scaled down until they
        fit, and one of an extreme shape is put on a white canvas. Raises TokenBudgetExceeded, and changes nothing, if even the
        frame of the turn is too long, and UsageError for a first observation with images if the policy takes none.
        """
        most = _CHARACTERS * (self._observation_tokens + 1)
        shown, added = self._fit(
            [
                replace(message, text=message.text[:most] + TRUNCATED) if len(message.text) > most else message
                for message in messages
            ]
        )
        if added.restarts:
            self.chains.append(Chain())
        self.chains[-1].show(added.token_ids, added.images)
        if self._acted:
            self._messages.append(self._chat.action(self._chat.decode(self._sampled)))
        self._messages += shown
        self._pieces, self._sampled, self._acted = added.pieces, [], False
        return shown

    def append_generation(self, generation: Generation) -> None:
        """Add sampled tokens.

        Raises ValueError if log-probabilities or versions are missing or an image placeholder was sampled.
        """
        token_ids, chain = generation.token_ids, self.chains[-1]
        if len(token_ids) != len(generation.logprobs):
            raise ValueError(f"{len(token_ids)} sampled tokens came with {len(generation.logprobs)} log-probabilities")
        if len(token_ids) != len(generation.token_versions):
            raise ValueError(f"{len(token_ids)} sampled tokens came with {len(generation.token_versions)} versions")
        if self._chat.image_token in token_ids:
            raise ValueError("the policy sampled an image placeholder: serve it with the banned token ids masked")
        chain.token_ids += token_ids
        chain.loss_mask += [1] * len(token_ids)
        chain.logprobs += generation.logprobs
        chain.versions += generation.token_versions
        chain.turns += not self._acted
        self._acted = True
        self._sampled += token_ids

    def episode(self, turns: list[Turn], **facts: Any) -> Episode:
        """The record of the episode: these tokens, the `turns` that were sampled, and the other fields of `Trajectory`."""
        rows, first = [], 0
        for number, chain in enumerate(self.chains):
            rows.append(
                Trajectory(
                    chain=number,
                    token_ids=chain.token_ids,
                    loss_mask=chain.loss_mask,
                    logprobs=chain.logprobs,
                    versions=chain.versions,
                    prompt_length=chain.prompt_length,
                    images=[image.sha256 for image in chain.images],
                    turns=turns[first : first + chain.turns],
                    **facts,
                )
            )
            first += chain.turns
        # The last chain may hold a prompt that nobody answered: there is nothing to learn in it.
        kept = [row for row in rows if any(row.loss_mask)] or rows[:1]
        return Episode(tuple(kept), {image.sha256: image.png for chain in self.chains for image in chain.images})

    def _next(self, messages: list[ChatMessage]) -> _Added:
        """The tokens that would follow if these messages came next."""
        chat = self._chat
        images = tuple(image for message in messages for image in message.images)
        open_turn = self._acted and self._sampled[-1:] != [chat.end_of_turn]
        if self._acted and self._appends:
            pieces = chat.continuation(messages)
            return _Added(chat.encode(pieces if open_turn else pieces[1:], images), images, [], False)
        sampled = chat.decode(self._sampled)
        action = [chat.action(sampled)] if self._acted else []
        pieces = chat.prompt([*self._messages, *action, *messages], self._tools)
        rest = pieces
        if self._acted:
            before = [*self._pieces, sampled, *([] if open_turn else [chat.end_of_turn])]
            rest = _remainder(pieces, before)
            if rest is None:
                everything = (*(image for message in self._messages for image in message.images), *images)
                return _Added(chat.encode(pieces, everything), everything, pieces, True)
        return _Added(chat.encode(rest, images), images, pieces, False)

    def _fit(self, messages: list[ChatMessage]) -> tuple[list[ChatMessage], _Added]:
        """Images are kept in order while they fit beside the frame and truncation marks; text fills what is left."""
        chat = self._chat
        first = not self.token_ids
        offered = sum(len(message.images) for message in messages)
        if offered and first:
            if not chat.takes_images:
                raise UsageError("this policy takes no images: choose one with an image processor, or tasks without images")
            messages = self._scaled(messages)
        kept: list[list[EncodedImage]] = [[] for _ in messages]
        for place, message in enumerate(messages):
            for image in message.images:
                kept[place].append(image)
                if not chat.accepts(image.pixels) or self._overflow(self._with(messages, kept, TRUNCATED)) > 0:
                    kept[place].pop()
        left_out = offered - sum(map(len, kept))
        shown = self._with(messages, kept)
        if left_out and first:
            raise TokenBudgetExceeded(f"{left_out} of its {offered} images do not fit, even scaled down")
        if left_out:
            note = f"[{left_out} of {offered} images left out]\n"
            shown[0] = replace(shown[0], text=note + shown[0].text)
        room = min(self._observation_tokens, -self._overflow(self._with(messages, kept, "")))
        while True:
            fitted = self._shorten(shown, room)
            added = self._next(fitted)
            over = self._over(added)
            if over <= 0:
                return fitted, added
            if not any(message.text for message in fitted):
                raise TokenBudgetExceeded(f"the next turn needs {len(added.token_ids)} tokens, {over} more than are left")
            # Tokens may merge differently beside the frame than alone.
            room -= over

    def _scaled(self, messages: list[ChatMessage]) -> list[ChatMessage]:
        """A question's messages, with its images as large as they may be beside its text."""
        images = [image for message in messages for image in message.images]
        if not images:
            return messages
        ratio = next((ratio for ratio in _RATIOS if self._chat.accepts(np.empty((_SIDE, _SIDE * ratio, 3)))), 1)

        def frames(most: int) -> list[Frame]:
            return [Frame.of(*image.pixels.shape[:2], most, ratio) for image in images]

        def tokens(most: int) -> int:
            return sum(self._chat.image_tokens(frame.canvas_height, frame.canvas_width) for frame in frames(most))

        # Around an image there are as many tokens whatever its size.
        blank = encoded_image(np.full((_SIDE, _SIDE, 3), 255, np.uint8))
        around = [replace(message, images=(blank,) * len(message.images)) for message in messages]
        used = self._overflow(self._shorten(around, self._observation_tokens))
        room = len(images) * self._chat.image_tokens(_SIDE, _SIDE) - used
        low, high = _SIDE**2, max(image.pixels.shape[0] * image.pixels.shape[1] for image in images)
        if tokens(high) <= room:
            low = high
        else:
            _say_scaled(self._max_tokens)
        while high - low > _SIDE**2:
            middle = (low + high) // 2
            low, high = (middle, high) if tokens(middle) <= room else (low, middle)
        framed = iter([frame.show(image) for frame, image in zip(frames(low), images, strict=True)])
        return [replace(message, images=tuple(islice(framed, len(message.images)))) for message in messages]

    def _over(self, added: _Added) -> int:
        """By how many tokens a chain would be too long."""
        length = len(added.token_ids) + (0 if added.restarts else len(self.token_ids))
        return length - (self._max_tokens - self._reserve)

    def _overflow(self, messages: list[ChatMessage]) -> int:
        return self._over(self._next(messages))

    @staticmethod
    def _with(messages: list[ChatMessage], kept: list[list[EncodedImage]], text: str | None = None) -> list[ChatMessage]:
        return [
            replace(message, images=tuple(images), text=message.text if text is None else text)
            for message, images in zip(messages, kept, strict=True)
        ]

    def _shorten(self, messages: list[ChatMessage], room: int) -> list[ChatMessage]:
        """The messages in at most `room` tokens of text: short ones stay whole, long ones share what is left."""
        counts = [self._chat.count(message.text) for message in messages]
        shares = list(counts)
        left = room
        for rank, place in enumerate(sorted(range(len(counts)), key=counts.__getitem__)):
            shares[place] = min(counts[place], max(0, left) // (len(counts) - rank))
            left -= shares[place]
        return [
            message if share >= count else replace(message, text=self._cut(message.text, share))
            for message, share, count in zip(messages, shares, counts, strict=True)
        ]

    def _cut(self, text: str, tokens: int) -> str:
        """The head of `text` with a truncation mark; nothing if not even the mark fits."""
        head_tokens = tokens - self._chat.count(TRUNCATED)
        return self._chat.cut(text, head_tokens) + TRUNCATED if head_tokens >= 0 else ""


@cache
def _say_scaled(max_tokens: int) -> None:
    log.warning(
        "images of questions are scaled down to fit rollout.episode.max_tokens=%d: raise it to show more of them", max_tokens
    )


@dataclass(frozen=True, slots=True)
class _Added:
    """Tokens to add and their images, the pieces of the whole prompt, and whether a new chain begins with them."""

    token_ids: list[int]
    images: tuple[EncodedImage, ...]
    pieces: list[Piece]
    restarts: bool


def _remainder(whole: list[Piece], beginning: list[Piece]) -> list[Piece] | None:
    """What follows `beginning` in `whole`; None if it does not begin so. Neighbouring texts count as one."""
    whole, beginning = _joined(whole), _joined(beginning)
    if not beginning:
        return whole
    *head, last = beginning
    if whole[: len(head)] != head or len(whole) < len(beginning):
        return None
    meeting, rest = whole[len(head)], whole[len(beginning) :]
    if meeting == last:
        return rest
    if isinstance(meeting, str) and isinstance(last, str) and meeting.startswith(last):
        return [meeting[len(last) :], *rest]
    return None


def _joined(pieces: list[Piece]) -> list[Piece]:
    joined: list[Piece] = []
    for piece in pieces:
        if isinstance(piece, str) and joined and isinstance(joined[-1], str):
            joined[-1] += piece
        elif piece != "":
            joined.append(piece)
    return joined
