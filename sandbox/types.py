"""Types of the sandbox: limits, statuses, results."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from PIL import Image


class Status(StrEnum):
    """How a run of code ended. Only SANDBOX_FAILURE is ours and may be retried; the rest are the code's own doing."""

    OK = "ok"
    EXCEPTION = "exception"
    TIMEOUT = "timeout"
    MEMORY = "memory"
    KILLED = "killed"
    OUTPUT_LIMIT = "output_limit"
    SANDBOX_FAILURE = "sandbox_failure"


@dataclass(frozen=True, slots=True)
class Limits:
    """What one session may use. Bytes, seconds, counts; image sides in pixels; `image_pixels` is for all images of a run."""

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
    """What one run of code gave. `duration_s` is wall time as the host saw it."""

    status: Status
    stdout: str
    stderr: str
    images: tuple[Image.Image, ...]
    duration_s: float


class Observer(Protocol):
    """Told of what a pool does, at once and in its event loop: methods return quickly and raise nothing."""

    def jail_started(self) -> None:
        """A jail has been started: the first, or one in the place of one that died."""

    def sessions_changed(self, open: int, waiting: int) -> None:
        """How many sessions are open now, and how many callers wait for one."""

    def session_started(self, seconds: float) -> None:
        """A session was ready so long after there was room for it."""

    def run_ended(self, status: Status, seconds: float) -> None:
        """A run of code has ended."""


class SandboxUnavailable(RuntimeError):
    """A protection cannot be had on this machine. The message is one line and says what to do."""
