"""Types of the task world: what a task is, what an environment shows, what it reports of a tool call."""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol, TypedDict

import numpy as np
from PIL import Image

from envs.scoring.types import EXACT, Scoring


class Observation(TypedDict):
    """What the policy sees: text, and images as uint8 arrays of shape (height, width, 3)."""

    text: str
    images: tuple[np.ndarray, ...]


Script = Generator[str, Observation, None]
"""A scripted policy of one episode: it yields the action's text and is sent the observation that follows."""


@dataclass(frozen=True, slots=True)
class Task:
    """One question with a machine-checked answer.

    `images` are full size: what the tools work on (`image_1`, `image_2`, …). `views` are what the policy is shown, where that is a
    smaller copy; empty means that the images themselves are shown. `needed_tools` names the tools without all of which the task
    cannot be solved: empty where it can be solved at once, None where nobody knows. `tools` names those that the task allows, None
    for all that the environment has. `expert` makes a script that solves the task;
    it is given a random generator so that demonstrations vary. `scoring` says how an answer is compared with `answer`.
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

    def __post_init__(self) -> None:
        if isinstance(self.abilities, str):
            object.__setattr__(self, "abilities", (self.abilities,))


class ToolStatus(StrEnum):
    """How a tool call ended.

    OK, ERROR and TIMEOUT are the model's doing. UNAVAILABLE: a service outside did not answer, and the episode goes on without it.
    FAILURE: our own machine failed, and the episode is to be run again.
    """

    OK = "ok"
    ERROR = "error"
    TIMEOUT = "timeout"
    UNAVAILABLE = "unavailable"
    FAILURE = "failure"


@dataclass(frozen=True, slots=True)
class ToolCall:
    """The record of one call that `info["tool_call"]` carries. `latency_s` is the wall time of the call in seconds."""

    tool: str
    status: ToolStatus
    latency_s: float
    arguments: str


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a tool gives back: text and images for the observation, and how the call ended."""

    text: str
    images: tuple[Image.Image, ...] = ()
    status: ToolStatus = ToolStatus.OK


class Tool(Protocol):
    """A tool in the hands of one episode."""

    async def call(self, arguments: Mapping[str, Any]) -> ToolResult:
        """Do what the model asked for. Wrong arguments are a result with the remedy, never an exception."""
        ...

    async def close(self) -> None:
        """Give back what the tool holds."""
        ...
