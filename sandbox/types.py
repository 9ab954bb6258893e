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
    """The limits of a session."""

    wall_s: float = 10.0
    """Longest that one run of code may take, in seconds."""

    cpu_s: float = 10.0
    """CPU time of one run of code, in seconds."""

    memory_bytes: int = 1 << 30
    """Memory of the session, in bytes."""

    pids: int = 32
    """Most processes and threads at a time."""

    disk_bytes: int = 64 << 20
    """Size of the session's files, in bytes."""

    output_bytes: int = 64 << 10
    """What is kept of the output of one run, in bytes."""

    images: int = 10
    """Most images that one run returns."""

    image_side: int = 4096
    """Longest side of such an image, in pixels."""

    image_pixels: int = 1 << 24
    """Pixels of all images of one run."""


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
