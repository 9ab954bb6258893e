"""The driver's side: workers and shared sandboxes; groups are sent out, and every dispatched episode comes back exactly once."""

from __future__ import annotations

import logging
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError

from envs.errors import FleetError, UsageError
from envs.runtime.imports import import_path
from envs.runtime.progress import Advance, silent
from rollout.cluster import sandboxes
from rollout.cluster.weights import pack
from rollout.cluster.worker import RolloutWorker
from rollout.config import RolloutConfig
from rollout.engines.registry import ENGINES
from rollout.episode.deadlines import group_deadline_s
from rollout.episode.loop import failed_episode
from rollout.types import Episode, EpisodeSpec, Group, GroupSpec

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

_CLOSE_S = 30.0
_POLL_S = 5.0


@dataclass(slots=True)
class _Seat:
    """A place in the fleet and the worker that fills it now."""

    worker: Any
    load: int = 0
    deaths: int = 0


@dataclass(frozen=True, slots=True)
class _Dispatch:
    """One call to a worker: the group, or the part of one, that it will return, and when it is overdue."""

    seat: _Seat
    worker: Any
    group: GroupSpec
    deadline: float


class Fleet:
    """Starts `config.workers` workers on the running Ray cluster and keeps them until `shutdown`.

    It also starts `config.sandbox_actors` actors, whose sandboxes all workers share. `worker` is the class of the workers.
    Construction blocks until all serve. Raises UsageError if the cluster cannot hold them or there is no such engine, and what one
    of them raised at its start.
    """

    def __init__(self, config: RolloutConfig, worker: type[RolloutWorker] = RolloutWorker) -> None:
        import_path("rollout.engine.kind", config.engine.kind, ENGINES)  # raises UsageError
        self._config = config
        self._worker = worker
        self._weights: Any = None
        self._version = 0
        self._sandboxes = [sandboxes.spawn(config) for _ in range(config.sandbox_actors)]
        self._seats = [_Seat(self._spawn()) for _ in range(config.workers)]
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
            raise FleetError(f"a worker died while it started: {error}") from error
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
    ) -> list[Group]:
        """Run every group; what became of them, in their order: each episode has exactly one outcome.

        A group goes to one worker whole. An episode that our infrastructure failed is repeated, without the rest of its group, up
        to `config.attempts` times; if it fails then too, it is returned as INFRASTRUCTURE. So is one that a deadline cut off if its
        spec asks for it, with a count of its own (`cut_before`), and with the same seeds: another sample would favour the short
        answers that finish in time. `advance` is called with the number of
        finished episodes, `keep` with each of them as soon as its outcome is final. `played` says that questions of this collection
        have been put to the policy before.

        Raises FleetError after `config.max_consecutive_failures` failures in a row or if a worker dies again and again, UsageError
        if the episodes cannot be run at all or no question can be put to the policy, ValueError if two of them share an
        `episode_id`.
        """
        if not self._seats:
            raise RuntimeError("the fleet was shut down: make a new one")
        return _Collection(self, self._config, groups, advance, keep, played).run()

    def notes(self) -> list[str]:
        """What the workers' policies have to say about how they were asked, each sentence once; a dead worker says nothing."""
        notes: list[str] = []
        for report in [seat.worker.health.remote() for seat in self._seats]:
            try:
                notes += ray.get(report, timeout=self._config.start_s)["notes"]
            except RayError as error:
                log.warning("a worker cannot say how its policy was asked: %s", error)
        return list(dict.fromkeys(notes))

    def publish(self, state_dict: Mapping[str, torch.Tensor], version: int) -> None:
        """Serve `state_dict` (Hugging Face names) as `version` on every worker; returns when all do.

        Raises UsageError if the engine takes no weights.
        """
        self._weights, self._version = ray.put(pack(state_dict)), version
        updates = [(seat, seat.worker.publish.remote(self._weights, version)) for seat in self._seats]
        for seat, update in updates:
            try:
                ray.get(update, timeout=self._config.start_s)
            except RayError as error:
                if isinstance(cause := getattr(error, "cause", None), UsageError):
                    raise cause from error
                log.warning("a worker failed to take version %d: %s", version, error)
                self.replace(seat)
                ray.get(seat.worker.health.remote(), timeout=self._config.start_s)

    def shutdown(self) -> None:
        """Stop all workers, then the sandboxes that they used. May be called twice."""
        for actors in ([seat.worker for seat in self._seats], self._sandboxes):
            if actors:
                closing = [actor.close.remote() for actor in actors]
                ray.wait(closing, num_returns=len(closing), timeout=_CLOSE_S)
        self._kill()

    def _kill(self) -> None:
        actors = [*(seat.worker for seat in self._seats), *self._sandboxes]
        self._seats, self._sandboxes = [], []
        for actor in actors:
            ray.kill(actor)

    @property
    def seats(self) -> list[_Seat]:
        """The places of the fleet, in a fixed order."""
        return self._seats

    def replace(self, seat: _Seat) -> None:
        """Fill a seat anew. The new worker loads the current weights before it serves; calls to it wait for that."""
        ray.kill(seat.worker)
        seat.worker, seat.load = self._spawn(), 0
        seat.worker.start.remote(self._weights, self._version)

    def _spawn(self) -> Any:
        needed = resources(self._config)
        return (
            ray.remote(self._worker)
            .options(num_cpus=needed["CPU"], num_gpus=needed["GPU"], resources={"sandbox": needed["sandbox"]})
            .remote(self._config, self._sandboxes)
        )


def resources(config: RolloutConfig) -> dict[str, float]:
    """What one worker asks Ray for: no `sandbox` if the fleet has sandbox actors."""
    pooled = 0 if config.sandbox_actors else config.sandboxes_per_worker
    return {"CPU": config.cpus_per_worker, "GPU": config.gpus_per_worker, "sandbox": pooled}


class _Collection:
    """One call of `Fleet.collect`."""

    def __init__(
        self,
        fleet: Fleet,
        config: RolloutConfig,
        groups: Sequence[GroupSpec],
        advance: Advance,
        keep: Callable[[Episode], None],
        played: bool,
    ) -> None:
        self._fleet, self._config, self._groups, self._advance, self._keep = fleet, config, groups, advance, keep
        self._played = played
        self._outcomes: dict[str, Episode] = {}
        self._attempts: Counter[str] = Counter()
        self._waiting = deque(group for group in groups if group.episodes)
        self._under_way: dict[Any, _Dispatch] = {}
        self._failures_in_a_row = 0
        if twice := _repeated(spec.episode_id for group in groups for spec in group.episodes):
            raise ValueError(f"two episodes are called {twice!r}: every episode of a collection needs its own episode_id")

    def run(self) -> list[Group]:
        try:
            while self._waiting or self._under_way:
                self._send()
                self._receive()
        finally:
            for call in self._under_way:
                ray.cancel(call)
            for seat in self._fleet.seats:
                seat.load = 0
        self._require_played(enough=1)
        return [Group(group.group_id, tuple(self._outcomes[spec.episode_id] for spec in group.episodes)) for group in self._groups]

    def _send(self) -> None:
        """Give each group to the least loaded worker, while one has room."""
        while self._waiting:
            group = self._waiting[0]
            seat = min(self._fleet.seats, key=lambda seat: seat.load)
            if seat.load and seat.load + len(group.episodes) > self._config.episodes_per_worker:
                return
            self._waiting.popleft()
            # The worker has its own deadline; this one is for a worker that does not answer. It may still be starting.
            deadline = time.monotonic() + group_deadline_s(self._config, len(group.episodes)) + self._config.start_s
            self._under_way[seat.worker.run.remote(group)] = _Dispatch(seat, seat.worker, group, deadline)
            seat.load += len(group.episodes)

    def _receive(self) -> None:
        ready, _ = ray.wait(list(self._under_way), num_returns=1, timeout=_POLL_S)
        for call in ready:
            dispatch = self._under_way.pop(call)
            try:
                group: Group = ray.get(call)
            except RayTaskError as error:
                raise error.cause or error from error
            except RayActorError as error:
                self._lost(dispatch, f"a worker died: {error}")
            else:
                dispatch.seat.load -= len(dispatch.group.episodes)
                dispatch.seat.deaths = 0
                for spec, episode in zip(dispatch.group.episodes, group.episodes, strict=True):
                    self._finished(spec, episode)
        now = time.monotonic()
        for call, dispatch in list(self._under_way.items()):
            if now > dispatch.deadline:
                del self._under_way[call]
                self._lost(dispatch, "a worker did not answer in time")

    def _finished(self, spec: EpisodeSpec, episode: Episode) -> None:
        if episode.failed:
            self._count_failure(episode.error or "unknown")
            self._retry(spec, episode)
        elif episode.cut and spec.repeat_if_cut and spec.cut_before + 1 < self._config.attempts:
            log.warning("episode %s was cut off by %s: it is repeated", spec.episode_id, episode.cut)
            self._waiting.append(GroupSpec(spec.group_id, (replace(spec, cut_before=spec.cut_before + 1),)))
        else:
            self._failures_in_a_row = 0
            self._settle(spec, episode)

    def _lost(self, dispatch: _Dispatch, error: str) -> None:
        """The worker is gone with these episodes. Other calls to it fail the same way; only the first replaces it."""
        seat = dispatch.seat
        if seat.worker is dispatch.worker:
            log.warning("%s: it is replaced", error)
            seat.deaths += 1
            self._count_failure(error)
            if seat.deaths > self._config.attempts:
                raise FleetError(f"a worker died {seat.deaths} times without finishing a group in between; the last error: {error}")
            self._fleet.replace(seat)
        for spec in dispatch.group.episodes:
            self._retry(spec, failed_episode(spec, error))

    def _retry(self, spec: EpisodeSpec, episode: Episode) -> None:
        """Repeat one episode, unless it has had its attempts. The rest of its group is not repeated."""
        self._attempts[spec.episode_id] += 1
        if self._attempts[spec.episode_id] < self._config.attempts:
            self._waiting.append(GroupSpec(spec.group_id, (spec,)))
        else:
            log.error("episode %s failed %d times: %s", spec.episode_id, self._attempts[spec.episode_id], episode.error)
            self._settle(spec, episode)

    def _count_failure(self, error: str) -> None:
        self._failures_in_a_row += 1
        if self._failures_in_a_row >= self._config.max_consecutive_failures:
            raise FleetError(f"{self._failures_in_a_row} infrastructure failures in a row; the last one: {error}")

    def _settle(self, spec: EpisodeSpec, episode: Episode) -> None:
        self._outcomes[spec.episode_id] = episode
        self._keep(episode)
        self._advance(len(self._outcomes), "")
        self._played |= not (episode.unplayed or episode.failed)
        self._require_played(enough=self._config.max_consecutive_failures)

    def _require_played(self, enough: int) -> None:
        """Raise UsageError if there are `enough` outcomes, and all are questions that could not be put to the policy."""
        if self._played:
            return
        refused = [episode.error for episode in self._outcomes.values() if episode.unplayed]
        if enough <= len(refused) == len(self._outcomes):
            raise UsageError(f"no question could be put to the policy; the first of {len(refused)}: {refused[0]}")


def _repeated(names: Iterable[str]) -> str | None:
    """A name that occurs twice, or None."""
    return next((name for name, count in Counter(names).items() if count > 1), None)
