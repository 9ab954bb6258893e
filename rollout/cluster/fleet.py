"""The driver's side: workers and shared sandboxes, weights for them, and the collections that they run."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError

from envs.errors import FleetError, UsageError
from envs.runtime.imports import import_path
from envs.runtime.progress import Advance, Incidents, silent
from rollout.cluster import sandboxes
from rollout.cluster.collection import Collection
from rollout.cluster.deaths import reason
from rollout.cluster.outcomes import Kind, Outcome, Summarised, Whole, Writing
from rollout.cluster.sandbox_metrics import SandboxCounts
from rollout.cluster.seats import Seat
from rollout.cluster.weights import Sender, Weights, warn_of_a_small_store
from rollout.cluster.worker import RolloutWorker
from rollout.config import RolloutConfig
from rollout.engines.registry import ENGINES, weights_dtype
from rollout.engines.verl.servers import Ranks, Servers
from rollout.store import Store
from rollout.summary import EpisodeSummary
from rollout.types import Episode, Group, GroupSpec

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

_CLOSE_S = 30.0
_OTHER_CALLS = 100


class Fleet:
    """Starts `config.workers` workers on the running Ray cluster and keeps them until `shutdown`.

    It also starts `config.sandbox_actors` actors, whose sandboxes all workers share, and before them the `servers` of verl, if
    `config.engine.kind` is verl; those on the GPUs of a `learner` need its ranks. `worker` is the class of the workers.
    Construction blocks until all serve. Raises UsageError if the cluster cannot hold them or there is no such engine, and what one
    of them raised at its start.
    """

    def __init__(self, config: RolloutConfig, worker: type[RolloutWorker] = RolloutWorker, learner: Ranks | None = None) -> None:
        import_path("rollout.engine.kind", config.engine.kind, ENGINES)  # raises UsageError
        self._config = config
        self._worker = worker
        self.servers = Servers(config, learner) if config.engine.kind == "verl" else None
        self._weights: Weights | None = None
        self._sender = Sender()
        self._version = 0
        self._writing: list[Writing] = []
        self._collection: Collection[Any] | None = None
        self.incidents = Incidents()
        self._sandbox_counts = SandboxCounts()
        self._sandboxes = [sandboxes.spawn(config) for _ in range(config.sandbox_actors)]
        self._seats = [Seat(self._spawn()) for _ in range(config.workers)]
        starts = [actor.ready.remote() for actor in self._sandboxes] + [seat.worker.start.remote() for seat in self._seats]
        try:
            ray.get(starts, timeout=config.start_s)
        except GetTimeoutError as error:
            jails = (
                f"; {config.sandbox_actors} sandbox actors, each for {sandboxes.resources(config)}" if config.sandbox_actors else ""
            )
            raise UsageError(
                f"{config.workers} workers did not start within rollout.start_s={config.start_s:g} s: each asks Ray for "
                f"{resources(config)}{jails}, and {ray.available_resources()} are free"
            ) from error
        except RayTaskError as error:
            raise error.cause or error from error
        except RayActorError as error:
            raise FleetError(f"a worker died while it started: {reason(error)}") from error
        finally:
            if sys.exception() is not None:
                self._kill()

    def collect(
        self,
        groups: Sequence[GroupSpec],
        advance: Advance = silent,
        keep: Callable[[Episode], None] = lambda _: None,
        *,
        played: bool = False,
    ) -> list[Group[Episode]]:
        """Run every group; what became of them, in their order: each episode has exactly one outcome.

        Each worker runs up to `episodes_per_worker` episodes at a time; those of a group go to one worker if that has room for
        them. An episode that our infrastructure failed is repeated, without the rest of its group, up to `config.attempts` times;
        if it fails then too, it is returned as INFRASTRUCTURE. One that a deadline cut off is repeated likewise, with a count of
        its own, if its spec asks for it. `advance` is called with the number of finished episodes, `keep` with each of them as soon
        as its outcome is final. `played` says that questions of this collection have been put to the policy before.

        Raises FleetError after `config.max_consecutive_failures` failures in a row or if a worker dies again and again, UsageError
        if the episodes cannot be run at all or no question can be put to the policy, ValueError if two of them share an
        `episode_id`.
        """
        return self._run(Whole(), groups, advance, keep, played)

    def play(
        self, groups: Sequence[GroupSpec], store: Store, name: str, advance: Advance = silent, *, played: bool = False
    ) -> list[Group[EpisodeSummary]]:
        """As `collect`, but the workers keep the episodes: what comes back are summaries, with references to their sequences.

        Every worker writes the records of its episodes as a shard of `name` in the background; all nodes must see the directory of
        `store`. The sequences lie in the memory of the node that ran them. Those that are lost with a node before all groups have
        ended are repeated. Raises as `collect`, and as `flush` if earlier shards are not all written.
        """
        self.flush()
        summarised = Summarised(store, name)
        outcomes = self._run(summarised, groups, advance, lambda _: None, played)
        self._writing = summarised.finish()
        return outcomes

    def flush(self) -> None:
        """Return once all shards of the last `play` are written. Raises FleetError if one cannot be."""
        writing, self._writing = self._writing, []
        for shard in writing:
            shard.wait()

    def _run[E: Outcome](
        self, kind: Kind[E], groups: Sequence[GroupSpec], advance: Advance, keep: Callable[[E], None], played: bool
    ) -> list[Group[E]]:
        if not self._seats:
            raise RuntimeError("the fleet was shut down: make a new one")
        self._collection = collection = Collection(self, self._config, kind, groups, advance, keep, played)
        try:
            return collection.run()
        finally:
            self._collection = None

    def status(self) -> dict[str, Any]:
        """Where the fleet stands, as plain JSON: `workers` (`wanted`, `ready`, `replaced`), `episodes` of the collection that is
        under way (`Collection.counts`), None if none is, `sandboxes` as they were seconds ago (`SandboxCounts.newest`), `failures`
        by kind and the newest `errors` (`Incidents`).

        It waits for nobody, so that any thread may call it at any time.
        """
        seats, collection, failures = list(self._seats), self._collection, self.incidents.counts()
        ready = sum(seat.starting is None for seat in seats)
        return {
            "workers": {"wanted": self._config.workers, "ready": ready, "replaced": failures.get("worker", 0)},
            "episodes": collection.counts() if collection is not None else None,
            "sandboxes": self._sandbox_counts.newest(self._sandboxes or [seat.worker for seat in seats if self._has_pool(seat)]),
            "failures": failures,
            "errors": self.incidents.newest(),
        }

    def _has_pool(self, seat: Seat) -> bool:
        return self._config.sandboxes_per_worker > 0 and seat.starting is None

    def notes(self) -> list[str]:
        """What the workers' policies have to say about how they were asked, each sentence once; a dead worker says nothing."""
        notes: list[str] = []
        for report in [seat.worker.health.remote() for seat in self._seats if seat.starting is None]:
            try:
                notes += ray.get(report, timeout=self._config.start_s)["notes"]
            except RayError as error:
                log.warning("a worker cannot say how its policy was asked: %s", error)
        return list(dict.fromkeys(notes))

    @cached_property
    def dtype(self) -> str:
        """The type of the weights that the engines compute with, as in "bfloat16"."""
        return weights_dtype(self._config.engine)

    def publish(self, weights: Weights | Mapping[str, torch.Tensor], version: int) -> None:
        """Serve `weights` (Hugging Face names) as `version`; returns when every worker that has started does.

        A worker that fails is replaced. A new one takes the current weights before it serves, and nobody waits for it: its place
        may be lost with a node. If it does not take them either, the collection says so. Tensors of this process are put into
        shared memory first; the version before is given up. Raises UsageError if the engine takes no weights.
        """
        if not isinstance(weights, Weights):
            weights = self._sender.share(weights.items())
        if self._weights is None:
            warn_of_a_small_store(weights)
        self._weights, self._version = weights, version
        updates = []
        for seat in self._seats:
            if seat.starting is None:
                updates.append((seat, self._update(seat)))
            else:
                seat.behind = True
        for seat, update in updates:
            try:
                ray.get(update, timeout=self._config.start_s)
            except RayError as error:
                if isinstance(cause := getattr(error, "cause", None), UsageError):
                    raise cause from error
                line = f"a worker failed to take version {version}: {reason(error)}"
                log.warning("%s: it is replaced", line)
                self.replace(seat, line)

    def catch_up(self, seat: Seat) -> bool:
        """Give a worker that has started the current weights, which is then what the seat waits for; False if it has them."""
        if not seat.behind:
            return False
        seat.wait_for(self._update(seat), self._due())
        return True

    def _update(self, seat: Seat) -> ray.ObjectRef:
        seat.version, seat.behind = self._version, False
        return seat.worker.publish.remote(self._weights, self._version)

    def _due(self) -> float:
        return time.monotonic() + self._config.start_s

    def shutdown(self) -> None:
        """Stop all workers once they have written their records, then the sandboxes that they used. May be called twice."""
        # A worker that waits for a place in the cluster would not answer.
        for actors in ([seat.worker for seat in self._seats if seat.starting is None], self._sandboxes):
            if actors:
                closing = [actor.close.remote() for actor in actors]
                ray.wait(closing, num_returns=len(closing), timeout=_CLOSE_S)
        self._kill()

    def _kill(self) -> None:
        if self.servers is not None:
            self.servers.close()
        actors = [*(seat.worker for seat in self._seats), *self._sandboxes]
        self._seats, self._sandboxes = [], []
        for actor in actors:
            ray.kill(actor)

    @property
    def seats(self) -> list[Seat]:
        """The places of the fleet, in a fixed order."""
        return self._seats

    def replace(self, seat: Seat, why: str) -> None:
        """Fill a seat anew, and count why. The new worker serves once it has started and caught up."""
        self.incidents.add("worker", why)
        ray.kill(seat.worker)
        worker = self._spawn()
        # The weights come later: those of today may be overwritten by the time that there is a place for the worker.
        seat.refill(worker, behind=self._weights is not None)
        seat.wait_for(worker.start.remote(), self._due())

    def _spawn(self) -> Any:
        needed = resources(self._config)
        return (
            ray.remote(self._worker)
            .options(
                num_cpus=needed["CPU"],
                num_gpus=needed["GPU"],
                resources={"sandbox": needed["sandbox"]},
                # An episode is a call; others must get through while all of them run.
                max_concurrency=self._config.episodes_per_worker + _OTHER_CALLS,
            )
            .remote(self._config, self._sandboxes)
        )


def resources(config: RolloutConfig) -> dict[str, float]:
    """What one worker asks Ray for: no `sandbox` if the fleet has sandbox actors."""
    pooled = 0 if config.sandbox_actors else config.sandboxes_per_worker
    return {"CPU": config.cpus_per_worker, "GPU": config.gpus_per_worker, "sandbox": pooled}
