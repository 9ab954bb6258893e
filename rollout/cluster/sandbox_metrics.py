"""What the sandboxes of a worker or a sandbox actor do, as Ray metrics: Prometheus finds them as `ray_toolwise_sandbox_…`. And the
sum over a fleet, for who asks the driver."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from ray.util.metrics import Counter, Gauge, Histogram

from sandbox import Status

EVERY_S = 5.0
"""How often the pools are asked, at most."""
_SECONDS = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0]


class SandboxMetrics:
    """A `sandbox.Observer` that counts. To be made in a Ray worker."""

    def __init__(self, size: int) -> None:
        """`size` is the number of sessions that the pool has room for."""
        self._pool = uuid.uuid4().hex
        self._counts = {"size": size, "open": 0, "waiting": 0, "jails": 0}
        self._jails = Counter("toolwise_sandbox_jail_starts_total", "Outer jails started; more than one a pool: one has died.")
        self._sessions = Gauge("toolwise_sandbox_sessions", "Sessions by state: open or waiting for room.", ("state",))
        self._starts = Histogram(
            "toolwise_sandbox_session_start_seconds", "From room for a session until it is ready.", boundaries=_SECONDS
        )
        self._runs = Counter("toolwise_sandbox_runs_total", "Runs of code by how they ended.", ("status",))
        self._run_seconds = Histogram("toolwise_sandbox_run_seconds", "Wall time of a run of code.", boundaries=_SECONDS)

    def counts(self) -> dict[str, Any]:
        """The `size` of the pool, its sessions `open` and `waiting` now, the `jails` started so far, and a name of the `pool`."""
        return {"pool": self._pool, **self._counts}

    def jail_started(self) -> None:
        """See `sandbox.Observer`."""
        self._counts["jails"] += 1
        self._jails.inc()

    def sessions_changed(self, open: int, waiting: int) -> None:
        """See `sandbox.Observer`."""
        self._counts |= {"open": open, "waiting": waiting}
        self._sessions.set(open, {"state": "open"})
        self._sessions.set(waiting, {"state": "waiting"})

    def session_started(self, seconds: float) -> None:
        """See `sandbox.Observer`."""
        self._starts.observe(seconds)

    def run_ended(self, status: Status, seconds: float) -> None:
        """See `sandbox.Observer`."""
        self._runs.inc(tags={"status": status.value})
        self._run_seconds.observe(seconds)


class SandboxCounts:
    """What the pools of a fleet say together. They are asked now and then, if somebody wants to know, and never waited for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._answers: list[Future[dict[str, Any] | None]] = []
        self._asked = -EVERY_S
        self._jails: dict[str, int] = {}
        self._known: dict[str, int] | None = None

    def newest(self, actors: Sequence[Any]) -> dict[str, int] | None:
        """The newest sum: of `pools` so many `answered`; their sessions `open`, `free` and `waiting`; `restarts`, the jails started
        in place of others. None before the first answer, and without pools. `actors` have a method `sandboxes` that counts.

        Any thread may call it: it sends a few bytes to each actor every `EVERY_S` and takes what has come back.
        """
        with self._lock:
            if not actors:
                self._answers, self._known = [], None
                return None
            now = time.monotonic()
            if now - self._asked < EVERY_S and not all(answer.done() for answer in self._answers):
                return self._known
            if self._answers:
                self._take()
            if now - self._asked >= EVERY_S:
                self._asked = now
                self._answers = [actor.sandboxes.remote().future() for actor in actors]
            return self._known

    def _take(self) -> None:
        ended = [answer for answer in self._answers if answer.done() and answer.exception() is None]
        found = [counts for answer in ended if (counts := answer.result()) is not None]
        pools, self._answers = len(self._answers), []
        self._jails |= {counts["pool"]: counts["jails"] for counts in found}
        sums = {name: sum(counts[name] for counts in found) for name in ("size", "open", "waiting")}
        self._known = {
            "pools": pools,
            "answered": len(found),
            "open": sums["open"],
            "free": sums["size"] - sums["open"],
            "waiting": sums["waiting"],
            "restarts": max(0, sum(self._jails.values()) - pools),
        }
