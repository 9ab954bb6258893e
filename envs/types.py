"""Types of the task world: what a task is, what an environment shows, what it reports of a tool call."""

from __future__ import annotations

import random
from collections.abc import Callable, Generator
from dataclasses import dataclass
from enum import StrEnum
from typing import TypedDict

import numpy as np
from PIL import Image


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
    smaller copy; empty means that the images themselves are shown. `needs_tool` is None where nobody knows. `expert` makes a script
    that solves the task; it is given a random generator so that demonstrations vary.
    """

    task_id: str
    question: str
    answer: str
    ability: str
    source: str
    images: tuple[Image.Image, ...] = ()
    views: tuple[Image.Image, ...] = ()
    needs_tool: bool | None = None
    expert: Callable[[random.Random], Script] | None = None


class ToolStatus(StrEnum):
    """How a tool call ended, as the model's doing (OK, ERROR, TIMEOUT) or ours (FAILURE)."""

    OK = "ok"
    ERROR = "error"
    TIMEOUT = "timeout"
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


class InfrastructureError(RuntimeError):
    """The machine failed, not the model: the episode is to be run again and must not enter any statistics."""


class UsageError(ValueError):
    """What the user asked for cannot be had; the message is one line that says what to write instead."""
