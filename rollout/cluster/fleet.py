"""The driver's side: workers and shared sandboxes, whole groups sent out, and every dispatched episode back exactly once."""

from __future__ import annotations

import logging
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError

from envs.errors import FleetError, UsageError
from rollout.cluster import sandboxes
from rollout.cluster.weights import pack
from rollout.cluster.worker import RolloutWorker
from rollout.config import RolloutConfig
from rollout.episode.loop import failed_episode
from rollout.types import Episode, EpisodeSpec

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
"""Called with the number of finished episodes and of all."""

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
    """Episodes that one call to a worker will return: indices into the specs, and when the call is overdue."""

    seat: _Seat
    worker: Any
    indices: list[int]
    deadline: float


class Fleet:
    """Starts `config.workers` workers on the running Ray cluster and keeps them until `shutdown`.

    With them go `config.sandbox_actors` actors, whose sandboxes all workers share. `worker` is the class of the workers.
    Construction blocks until all serve. Raises UsageError where the cluster cannot hold them, and what one of them raised at its
    start.
    """

    def __init__(self, config: RolloutConfig, worker: type[RolloutWorker] = RolloutWorker) -> None:
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

    def collect(self, specs: Sequence[EpisodeSpec], on_progress: Progress | None = None) -> list[Episode]:
        """Run every spec; the outcomes in the order of `specs`, each exactly one.

        Neighbours of one group go to one worker together. What the machine failed is repeated, sample by sample, up to
        `config.attempts` times; what fails then too is returned as INFRASTRUCTURE. Raises FleetError after
        `config.max_consecutive_failures` failures in a row or where a worker dies again and again, UsageError where the specs
        cannot be run at all.
        """
        if not self._seats:
            raise RuntimeError("the fleet was shut down: make a new one")
        return _Collection(self, self._config, specs, on_progress).run()

    def publish(self, state_dict: Mapping[str, torch.Tensor], version: int) -> None:
        """Serve `state_dict` (Hugging Face names) as `version` on every worker; returns when all do."""
        self._weights, self._version = ray.put(pack(state_dict)), version
        updates = [(seat, seat.worker.publish.remote(self._weights, version)) for seat in self._seats]
        for seat, update in updates:
            try:
                ray.get(update, timeout=self._config.start_s)
            except RayError as error:
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
        asked = resources(self._config)
        return (
            ray.remote(self._worker)
            .options(num_cpus=asked["CPU"], num_gpus=asked["GPU"], resources={"sandbox": asked["sandbox"]})
            .remote(self._config, self._sandboxes)
        )


def resources(config: RolloutConfig) -> dict[str, float]:
    """What one worker asks Ray for: no `sandbox` where the fleet has sandbox actors."""
    pooled = 0 if config.sandbox_actors else config.sandboxes_per_worker
    return {"CPU": config.cpus_per_worker, "GPU": config.gpus_per_worker, "sandbox": pooled}


class _Collection:
    """One call of `Fleet.collect`."""

    def __init__(self, fleet: Fleet, config: RolloutConfig, specs: Sequence[EpisodeSpec], on_progress: Progress | None) -> None:
        self._fleet, self._config, self._specs, self._on_progress = fleet, config, specs, on_progress
        self._outcomes: dict[int, Episode] = {}
        self._attempts: Counter[int] = Counter()
        self._waiting = deque(
            [index for index, _ in group] for _, group in groupby(enumerate(specs), key=lambda item: item[1].group_id)
        )
        self._under_way: dict[Any, _Dispatch] = {}
        self._failures_in_a_row = 0

    def run(self) -> list[Episode]:
        try:
            while self._waiting or self._under_way:
                self._send()
                self._receive()
        finally:
            for call in self._under_way:
                ray.cancel(call)
            for seat in self._fleet.seats:
                seat.load = 0
        return [self._outcomes[index] for index in range(len(self._specs))]

    def _send(self) -> None:
        """Give each group to the least loaded worker, while one has room."""
        while self._waiting:
            indices = self._waiting[0]
            seat = min(self._fleet.seats, key=lambda seat: seat.load)
            if seat.load and seat.load + len(indices) > self._config.episodes_per_worker:
                return
            self._waiting.popleft()
            call = seat.worker.run.remote([self._specs[index] for index in indices])
            # The worker has a deadline of its own; this one is for a worker that does not answer. It may still be starting.
            deadline = time.monotonic() + self._config.group_s + self._config.start_s
            self._under_way[call] = _Dispatch(seat, seat.worker, indices, deadline)
            seat.load += len(indices)

    def _receive(self) -> None:
        ready, _ = ray.wait(list(self._under_way), num_returns=1, timeout=_POLL_S)
        for call in ready:
            dispatch = self._under_way.pop(call)
            try:
                episodes = ray.get(call)
            except RayTaskError as error:
                raise error.cause or error from error
            except RayActorError as error:
                self._lost(dispatch, f"a worker died: {error}")
            else:
                dispatch.seat.load -= len(dispatch.indices)
                dispatch.seat.deaths = 0
                for index, episode in zip(dispatch.indices, episodes, strict=True):
                    self._finished(index, episode)
        now = time.monotonic()
        for call, dispatch in list(self._under_way.items()):
            if now > dispatch.deadline:
                del self._under_way[call]
                self._lost(dispatch, "a worker did not answer in time")

    def _finished(self, index: int, episode: Episode) -> None:
        if episode.failed:
            self._failed(episode.error or "unknown")
            self._again(index, episode)
        else:
            self._failures_in_a_row = 0
            self._settle(index, episode)

    def _lost(self, dispatch: _Dispatch, error: str) -> None:
        """The worker is gone with these episodes. Other calls to it fail the same way; only the first replaces it."""
        seat = dispatch.seat
        if seat.worker is dispatch.worker:
            log.warning("%s: it is replaced", error)
            seat.deaths += 1
            self._failed(error)
            if seat.deaths > self._config.attempts:
                raise FleetError(f"a worker died {seat.deaths} times without finishing a group in between; the last error: {error}")
            self._fleet.replace(seat)
        for index in dispatch.indices:
            self._again(index, failed_episode(self._specs[index], error))

    def _again(self, index: int, episode: Episode) -> None:
        """Repeat one sample; the rest of its group is not concerned."""
        self._attempts[index] += 1
        if self._attempts[index] < self._config.attempts:
            self._waiting.append([index])
        else:
            log.error("episode %s failed %d times: %s", self._specs[index].episode_id, self._attempts[index], episode.error)
            self._settle(index, episode)

    def _failed(self, error: str) -> None:
        self._failures_in_a_row += 1
        if self._failures_in_a_row >= self._config.max_consecutive_failures:
            raise FleetError(f"{self._failures_in_a_row} infrastructure failures in a row; the last one: {error}")

    def _settle(self, index: int, episode: Episode) -> None:
        self._outcomes[index] = episode
        if self._on_progress is not None:
            self._on_progress(len(self._outcomes), len(self._specs))
