"""Which questions of a file fit into an episode, whole, as the policy's tokenizer and image processor count them.

An episode never stops at a question that is too long: text is cut and marked, pictures are scaled down. That is seldom what
somebody wants to train on, so it is counted before anything runs, and `rollout.episode.overlong` decides.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from envs.datasets import Dataset
from envs.datasets.types import Question
from envs.errors import DatasetError, ItemError, PictureError
from envs.pictures import fitted_size, size_of
from envs.tool_env import MAX_PIXELS, MAX_SIDE
from rollout.config import EpisodeConfig, Overlong
from rollout.episode.prompts import reserved_tokens, system_prompt, template_tools
from rollout.specs import draw
from rollout.tokens.chat_format import ChatFormat, ChatMessage
from rollout.tokens.images import EncodedImage, Frame

log = logging.getLogger(__name__)

MOST_COUNTED = 10_000
"""Rows that are counted if none are to be left out: of more, as many drawn at random."""

_NAMED = 3
_SIDE = 28  # pixels a side of an image of the fewest tokens
_SLACK = 16  # tokens by which text beside the frame may differ from the two alone
_RATIOS = (180, 20, 4, 1)  # of an image's sides: the first that the image processor takes


@dataclass(frozen=True, slots=True)
class Need:
    """What a question needs, in tokens: its `text` alone, its first prompt `without_images`, and the whole first prompt."""

    text: int
    without_images: int
    whole: int


def fitting_rows(data: Dataset, env: Any, chat: ChatFormat, config: EpisodeConfig) -> Sequence[int]:
    """The numbers of the rows to ask: all of them, or with `overlong=skip` those that fit whole. `env` is one that asks them.

    Logs how many do not fit, the first of them, and what to raise. With `skip` and `error` every row is counted, else at most
    `MOST_COUNTED`. Raises DatasetError with `error` if one does not fit, and with `skip` if none does.
    """
    counted = data.numbers
    if config.overlong is Overlong.fit and len(counted) > MOST_COUNTED:
        counted = draw(counted, MOST_COUNTED, seed=0)
    counter, room = Counter(env, chat, config), _room(config)
    long: dict[str, list[tuple[int, int]]] = {"text": [], "prompt": [], "images": []}
    for number in counted:
        try:
            question = data.question(number)
            if counter.surely_fits(question):
                continue
            need = counter.need(question)
        except (ItemError, PictureError):  # it broke after the check: its episode says so
            continue
        if need.text > config.max_observation_tokens:
            long["text"].append((number, need.text))
        elif need.without_images > room:
            long["prompt"].append((number, need.whole))
        elif need.whole > room:
            long["images"].append((number, need.whole))
    report = _report(long, data, len(counted), config)
    if report and config.overlong is Overlong.error:
        raise DatasetError(f"{report[0]} (rollout.episode.overlong=skip leaves such rows out, fit shortens them)")
    for line in report:
        log.warning("%s%s", line, ": they are left out" if config.overlong is Overlong.skip else "")
    if config.overlong is not Overlong.skip:
        return data.numbers
    left_out = {number for rows in long.values() for number, _ in rows}
    kept = [number for number in data.numbers if number not in left_out]
    if not kept:
        raise DatasetError(f"{report[0]}: no question is left")
    return kept


def largest_image(chat: ChatFormat, config: EpisodeConfig) -> int:
    """The tokens of the largest image that a policy may be shown; 0 if it takes none."""
    if not chat.takes_images:
        return 0
    side = math.isqrt(config.max_pixels)
    shown = _shown(side, side, chat, config).pixels
    return min(chat.image_tokens(*shown.shape[:2]), config.max_tokens)


class Counter:
    """Counts what questions need. `env` is one that asks them.

    The tools are all that `env` knows before its first reset: those of a server that has not been asked yet are not counted.
    """

    def __init__(self, env: Any, chat: ChatFormat, config: EpisodeConfig) -> None:
        self._chat, self._config = chat, config
        self._tools = template_tools(env, chat)
        system = system_prompt(env, config, self._tools is not None)
        self._before = [] if system is None else [ChatMessage("system", system)]
        self._frames: dict[int, int] = {}  # tokens around a question and that many images

    def need(self, question: Question) -> Need:
        """Exactly, as an episode would make the prompt. Raises PictureError if a picture cannot be read."""
        text, images = self._parts(question)
        pictured = self._image_tokens(images)
        whole = self._tokens(text, images)
        return Need(self._chat.count(text), whole - pictured, whole)

    def surely_fits(self, question: Question) -> bool:
        """Whether a question fits by a bound that takes no rendering of its prompt. Raises PictureError as `need`."""
        text, images = self._parts(question)
        if len(images) not in self._frames:
            blank = _shown(_SIDE, _SIDE, self._chat, self._config)
            blanks = (blank,) * len(images)
            self._frames[len(images)] = self._tokens("", blanks) - self._image_tokens(blanks)
        counted = self._chat.count(text)
        whole = self._frames[len(images)] + counted + self._image_tokens(images) + _SLACK
        return counted <= self._config.max_observation_tokens and whole <= _room(self._config)

    def _parts(self, question: Question) -> tuple[str, tuple[EncodedImage, ...]]:
        text = f"{question.system}\n\n{question.text}" if question.system else question.text
        pictures = question.shown if self._chat.takes_images else ()
        return text, tuple(_shown(*size_of(picture), self._chat, self._config) for picture in pictures)

    def _tokens(self, text: str, images: tuple[EncodedImage, ...]) -> int:
        prompt = self._chat.prompt([*self._before, ChatMessage("user", text, images)], self._tools)
        return len(self._chat.encode(prompt, images))

    def _image_tokens(self, images: tuple[EncodedImage, ...]) -> int:
        return sum(self._chat.image_tokens(*image.pixels.shape[:2]) for image in images)


def _room(config: EpisodeConfig) -> int:
    return config.max_tokens - reserved_tokens(config)


def _shown(width: int, height: int, chat: ChatFormat, config: EpisodeConfig) -> EncodedImage:
    """An image of the size in which a policy is shown one of this size; it has no content and takes no memory."""
    width, height = fitted_size(*fitted_size(width, height, MAX_PIXELS, MAX_SIDE), config.max_pixels)
    for ratio in _RATIOS:
        frame = Frame.of(height, width, height * width, ratio)
        pixels = np.broadcast_to(np.zeros(3, np.uint8), (frame.canvas_height, frame.canvas_width, 3))
        if chat.accepts(pixels):
            break
    return EncodedImage("", b"", pixels)


def _report(long: dict[str, list[tuple[int, int]]], data: Dataset, counted: int, config: EpisodeConfig) -> list[str]:
    """A line for each way not to fit: how many questions, the first of them, and what to change."""
    sample = "" if counted == len(data) else f" looked at, of {len(data)} rows,"
    keeps = config.overlong is Overlong.fit
    room = f"rollout.episode.max_tokens={config.max_tokens} less {reserved_tokens(config)} for an answer"
    lines = []
    for kind, what, remedy in (
        (
            "text",
            f"are longer than rollout.episode.max_observation_tokens={config.max_observation_tokens}",
            f"{', and are cut' if keeps else ''}: raise it",
        ),
        ("prompt", f"do not fit into {room}, even without pictures", f"{', and are cut or not asked' if keeps else ''}: raise it"),
        (
            "images",
            f"do not fit into {room} with pictures of max_pixels={config.max_pixels}",
            f"{', which are scaled down' if keeps else ''}: raise the one or lower the other",
        ),
    ):
        if rows := long[kind]:
            named = ", ".join(f"row {number}: {tokens} tokens" for number, tokens in rows[:_NAMED])
            more = f", and {len(rows) - _NAMED} more" if len(rows) > _NAMED else ""
            lines.append(f"{data.path}: {len(rows)} of {counted} questions{sample} {what} ({named}{more}){remedy}")
    return lines
