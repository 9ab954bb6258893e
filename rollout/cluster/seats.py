"""The places of a fleet, and the calls to the workers that fill them."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import Any

from rollout.types import EpisodeSpec


def writer_id() -> str:
    """The name of a new writer of trajectories."""
    return uuid.uuid4().hex[:8]


@dataclass(eq=False, slots=True)
class Seat:
    """A place in the fleet and the worker that fills it now, which writes trajectories as `writer`.

    `load` counts the episodes that it runs, `deaths` the workers that died here since one ended an episode. `starting` is the call
    that starts a new worker, which is given nothing before it has ended; it is overdue at `due` (of `time.monotonic`).
    """

    worker: Any
    load: int = 0
    deaths: int = 0
    starting: Any = None
    due: float = 0.0
    writer: str = field(default_factory=writer_id)

    def refill(self, worker: Any, starting: Any, due: float) -> None:
        """Give the place to another worker."""
        self.worker, self.starting, self.due = worker, starting, due
        self.load, self.writer = 0, writer_id()


@dataclass(eq=False, slots=True)
class Dispatch:
    """An episode under way on a worker, until `due` at the latest; `reply` and `kept` are references to what comes of it."""

    seat: Seat
    worker: Any
    writer: str
    spec: EpisodeSpec
    due: float
    reply: Any = None
    kept: Any = None

    @property
    def is_current(self) -> bool:
        """Whether its worker still fills the seat."""
        return self.seat.worker is self.worker
