"""Types of the sandbox: limits, statuses, results."""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from PIL import Image

ACCEPT_REDUCED = "TOOLWISE_ACCEPT_REDUCED_ISOLATION"
"""The environment variable that accepts reduced isolation wherever nothing else is said, if it is 1."""


def accepts_reduced_isolation(setting: bool | None) -> bool:
    """Whether a pool may start without cgroups: `setting`, or what the environment variable says if it is None."""
    return os.environ.get(ACCEPT_REDUCED) == "1" if setting is None else setting


class Status(StrEnum):
    """How a run of code ended. Only SANDBOX_FAILURE is our failure and may be retried; the code caused the others."""

    OK = "ok"
    EXCEPTION = "exception"
    TIMEOUT = "timeout"
    MEMORY = "memory"
    KILLED = "killed"
    OUTPUT_LIMIT = "output_limit"
    SANDBOX_FAILURE = "sandbox_failure"


@dataclass(slots=True)  # not frozen: Hydra could not set the fields from the command line
class Limits:
    """The limits of a session, in bytes, seconds and counts; image sides in pixels; `image_pixels` is for all images of a run."""

    wall_s: float = 10.0
    cpu_s: float = 10.0
    memory_bytes: int = 1 << 30
    pids: int = 32
    disk_bytes: int = 64 << 20
    output_bytes: int = 64 << 10
    images: int = 10
    image_side: int = 4096
    image_pixels: int = 1 << 24


@dataclass(frozen=True, slots=True)
class Result:
    """The result of one run of code. `duration_s` is wall time measured on the host."""

    status: Status
    stdout: str
    stderr: str
    images: tuple[Image.Image, ...]
    duration_s: float


class Observer(Protocol):
    """Is notified of a pool's events, immediately and in its event loop: methods must return quickly and raise nothing."""

    def jail_started(self) -> None:
        """A jail has been started: the first, or one in the place of one that died."""

    def sessions_changed(self, open: int, waiting: int) -> None:
        """How many sessions are open now, and how many callers wait for one."""

    def session_started(self, seconds: float) -> None:
        """A session was ready `seconds` after its slot was free."""

    def run_ended(self, status: Status, seconds: float) -> None:
        """A run of code has ended."""


class SandboxUnavailable(RuntimeError):
    """A protection is missing on this machine. The message is one line and says what to do."""
