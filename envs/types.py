"""Types of environments: tasks, observations, records of tool calls, and finished episodes."""

from __future__ import annotations

import random
from collections.abc import Callable, Generator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from PIL import Image

from envs.errors import UsageError
from envs.protocols.actions import Action
from envs.scoring.types import EXACT, Scoring

SPLITS = ("train", "validation", "test")
"""The parts of a task source; they never share an item."""


class Observation(TypedDict):
    """What the policy sees: text, and images as uint8 arrays of shape (height, width, 3)."""

    text: str
    images: tuple[np.ndarray, ...]


Script = Generator[Action | str, Observation, None]
"""A scripted policy of one episode: it yields an action, or the text of a turn, and is sent the observation that follows."""


@dataclass(frozen=True, slots=True)
class Task:
    """One question with a machine-checked answer.

    `answer` is the truth; "" if there is none, so that only the reward judges an episode. `abilities` are those that the task
    requires; a single text is one ability. `images` are full size: the tools work on them (`image_1`, `image_2`, …). `views` are
    smaller copies that the policy is shown; if there are none, it is shown the images themselves. `needed_tools` names the tools
    that the task requires: () if none, None if unknown. `tools` names those that the task allows, None for all that the environment
    has. `expert` makes a script that solves the task; it is given a random generator so that demonstrations vary. `scoring` says
    how an answer is compared with `answer`. `system` is a system prompt of the question's own; the policy is shown it before the
    question. A single text or image stands for a tuple of one. Raises UsageError if a text is no str, or an image no PIL image.
    """

    task_id: str
    question: str
    answer: str
    abilities: tuple[str, ...]
    source: str
    images: tuple[Image.Image, ...] = ()
    views: tuple[Image.Image, ...] = ()
    needed_tools: tuple[str, ...] | None = None
    expert: Callable[[random.Random], Script] | None = None
    scoring: Scoring = EXACT
    tools: tuple[str, ...] | None = None
    system: str = ""

    def __post_init__(self) -> None:
        for name in ("task_id", "question", "answer", "source", "system"):
            if not isinstance(value := getattr(self, name), str):
                raise UsageError(f"task {self.task_id}: {name}={value!r:.100}: write a text, as in {name}={str(value)!r:.100}")
        for name in ("abilities", "needed_tools", "tools"):
            if isinstance(value := getattr(self, name), str):
                if not value:
                    raise UsageError(f"task {self.task_id}: {name}='': write {name}=() if there is none")
                object.__setattr__(self, name, (value,))
        for name in ("images", "views"):
            value = getattr(self, name)
            images = (value,) if isinstance(value, str | Path | Image.Image) else tuple(() if value is None else value)
            for image in images:
                if not isinstance(image, Image.Image):
                    raise UsageError(f"task {self.task_id}: {name}={image!r:.100}: write PIL images, as PIL.Image.open gives them")
            object.__setattr__(self, name, images)


class ToolStatus(StrEnum):
    """How a tool call ended.

    OK, ERROR and TIMEOUT are due to the model. UNAVAILABLE: an external service did not answer, and the episode goes on without it.
    FAILURE: our infrastructure failed, and the episode is run again.
    """

    OK = "ok"
    ERROR = "error"
    TIMEOUT = "timeout"
    UNAVAILABLE = "unavailable"
    FAILURE = "failure"


@dataclass(frozen=True, slots=True)
class ToolCall:
    """The record of one call that `info["tool_calls"]` carries. `latency_s` is the wall time of the call in seconds."""

    tool: str
    status: ToolStatus
    latency_s: float
    arguments: str


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a tool returns: text and images for the observation, and how the call ended.

    A list of images is accepted, as are uint8 arrays in place of images. Raises TypeError or ValueError for a text or an image that
    cannot be shown.
    """

    text: str = ""
    images: tuple[Image.Image, ...] = ()
    status: ToolStatus = ToolStatus.OK

    def __post_init__(self) -> None:
        if not isinstance(self.text, str):
            raise TypeError(f"the text of a ToolResult is {self.text!r}: write a str")
        given = (self.images,) if isinstance(self.images, Image.Image | np.ndarray) else self.images
        object.__setattr__(self, "images", tuple(map(_shown, given)))
        object.__setattr__(self, "status", ToolStatus(self.status))


def _shown(image: Any) -> Image.Image:
    """The image, read to its end: a truncated file fails here, not when it is shown to the model."""
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image)
    if not isinstance(image, Image.Image):
        raise TypeError(f"an image of a ToolResult is a {type(image).__name__}: write a PIL image or a uint8 array")
    if 0 in image.size:
        raise ValueError("an image of a ToolResult has no pixels")
    image.load()
    return image


@dataclass(frozen=True, slots=True)
class Outcome:
    """A finished episode, as a reward sees it.

    `answer` is the final answer's text, None without one. `actions` are the texts of the model's turns; none if the episode was
    driven by calls. `tool_calls` are the records of all calls, in order. `turns` is the number of turns. `correct` says whether the
    answer is right, None if the task has no right answer; `well_formed` whether each turn was exactly one action and the last one
    an answer.
    """

    task: Task
    answer: str | None
    actions: tuple[str, ...]
    tool_calls: tuple[ToolCall, ...]
    turns: int
    correct: bool | None
    well_formed: bool
