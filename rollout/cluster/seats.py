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
    that starts a new worker or gives it the weights that it lacks; it is given no episode before that has ended, which is overdue
    at `due` (of `time.monotonic`). `version` is that of the weights that the worker was given last, None before any; `behind` says
    that there are later ones.
    """

    worker: Any
    load: int = 0
    deaths: int = 0
    starting: Any = None
    due: float = 0.0
    version: int | None = None
    behind: bool = False
    writer: str = field(default_factory=writer_id)

    def refill(self, worker: Any, *, behind: bool) -> None:
        """Give the place to another worker."""
        self.worker, self.version, self.behind = worker, None, behind
        self.load, self.writer = 0, writer_id()

    def wait_for(self, starting: Any, due: float) -> None:
        """Send no episodes before this call has ended."""
        self.starting, self.due = starting, due


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
