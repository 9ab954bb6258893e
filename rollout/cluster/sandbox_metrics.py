"""What the sandboxes of a worker or a sandbox actor do, as Ray metrics: Prometheus finds them as `ray_toolwise_sandbox_…`."""

from __future__ import annotations

from ray.util.metrics import Counter, Gauge, Histogram

from sandbox import Status

_SECONDS = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0]


class SandboxMetrics:
    """A `sandbox.Observer` that counts. To be made in a Ray worker."""

    def __init__(self) -> None:
        self._jails = Counter("toolwise_sandbox_jail_starts_total", "Outer jails started; more than one a pool: one has died.")
        self._sessions = Gauge("toolwise_sandbox_sessions", "Sessions by state: open or waiting for room.", ("state",))
        self._starts = Histogram(
            "toolwise_sandbox_session_start_seconds", "From room for a session until it is ready.", boundaries=_SECONDS
        )
        self._runs = Counter("toolwise_sandbox_runs_total", "Runs of code by how they ended.", ("status",))
        self._run_seconds = Histogram("toolwise_sandbox_run_seconds", "Wall time of a run of code.", boundaries=_SECONDS)

    def jail_started(self) -> None:
        """See `sandbox.Observer`."""
        self._jails.inc()

    def sessions_changed(self, open: int, waiting: int) -> None:
        """See `sandbox.Observer`."""
        self._sessions.set(open, {"state": "open"})
        self._sessions.set(waiting, {"state": "waiting"})

    def session_started(self, seconds: float) -> None:
        """See `sandbox.Observer`."""
        self._starts.observe(seconds)

    def run_ended(self, status: Status, seconds: float) -> None:
        """See `sandbox.Observer`."""
        self._runs.inc(tags={"status": status.value})
        self._run_seconds.observe(seconds)
