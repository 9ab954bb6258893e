"""One collection: episodes are sent out one by one, and every dispatched episode comes back exactly once."""

from __future__ import annotations

import logging
import queue
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from typing import Protocol

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from envs.errors import EngineStopped, FleetError, UsageError
from envs.runtime.progress import Advance, Incidents
from rollout.cluster.deaths import is_death, reason
from rollout.cluster.outcomes import Kind, Outcome
from rollout.cluster.seats import Dispatch, Seat
from rollout.config import RolloutConfig
from rollout.episode.deadlines import is_repeated, overdue_s
from rollout.types import EpisodeSpec, Group, GroupSpec

log = logging.getLogger(__name__)

_POLL_S = 1.0


class Seats(Protocol):
    """What a collection needs of the fleet."""

    @property
    def seats(self) -> list[Seat]:
        """The places of the fleet."""
        ...

    @property
    def incidents(self) -> Incidents:
        """What went wrong: `episode`, an attempt that our infrastructure failed; `worker`, a worker that was replaced."""
        ...

    def replace(self, seat: Seat, why: str) -> None:
        """Fill a seat anew."""
        ...

    def catch_up(self, seat: Seat) -> bool:
        """Give a worker that has started the current weights, which is then what the seat waits for; False if it has them."""
        ...


class Collection[E: Outcome]:
    """Runs groups of episodes; see `Fleet.collect`."""

    def __init__(
        self,
        fleet: Seats,
        config: RolloutConfig,
        kind: Kind[E],
        groups: Sequence[GroupSpec],
        advance: Advance,
        keep: Callable[[E], None],
        played: bool,
    ) -> None:
        self._fleet, self._config, self._kind, self._groups, self._advance, self._keep = fleet, config, kind, groups, advance, keep
        self._played = played
        self._count = sum(len(group.episodes) for group in groups)
        self._line = _Line(groups)
        self._outcomes: dict[str, E] = {}
        self._attempts: Counter[str] = Counter()
        self._under_way: set[Dispatch] = set()
        self._events: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._checked = time.monotonic()
        self._failures_in_a_row = 0
        if twice := _repeated(spec.episode_id for group in groups for spec in group.episodes):
            raise ValueError(f"two episodes are called {twice!r}: every episode of a collection needs its own episode_id")

    def run(self) -> list[Group[E]]:
        """Run them all; what became of them, in their order."""
        for seat in self._fleet.seats:
            self._watch(seat)
        try:
            while self._is_unfinished():
                self._send()
                self._receive()
        finally:
            for dispatch in self._under_way:
                ray.cancel(dispatch.reply)
            for seat in self._fleet.seats:
                seat.load = 0
        self._require_played(enough=1)
        return [Group(group.group_id, tuple(self._outcomes[spec.episode_id] for spec in group.episodes)) for group in self._groups]

    def counts(self) -> dict[str, int]:
        """How many episodes there are (`of`), and how many are `finished`, `running` and `waiting`. Any thread may ask."""
        finished, running = len(self._outcomes), len(self._under_way)
        return {"of": self._count, "finished": finished, "running": running, "waiting": max(0, self._count - finished - running)}

    def _is_unfinished(self) -> bool:
        if not self._line and not self._under_way:
            self._repeat_lost()
        return bool(self._line or self._under_way)

    def _send(self) -> None:
        """Use every free permit, on the least loaded workers first."""
        while self._line:
            free = [seat for seat in self._fleet.seats if seat.starting is None and seat.load < self._config.episodes_per_worker]
            if not free:
                return
            seat, spec = self._line.take(sorted(free, key=lambda seat: seat.load))
            # The worker has its own deadline; this one is for a worker that does not answer.
            due = time.monotonic() + overdue_s(self._config)
            dispatch = Dispatch(seat, seat.worker, seat.writer, spec, due)
            last = self._attempts[spec.episode_id] + 1 >= self._config.attempts
            dispatch.reply, dispatch.kept = self._kind.begin(dispatch, last)
            self._under_way.add(dispatch)
            seat.load += 1
            self._notify(dispatch.reply, partial(self._ended, dispatch))

    def _watch(self, seat: Seat) -> None:
        """Hear of it when the worker that starts on a seat has started or caught up, or failed to."""
        if seat.starting is not None:
            self._notify(seat.starting, partial(self._started, seat, seat.starting))

    def _notify(self, call: ray.ObjectRef, handle: Callable[[Future], None]) -> None:
        """Handle the end of a call. One by one: `ray.wait` looks at all calls that are under way for each one that ends."""
        call.future().add_done_callback(lambda future: self._events.put(partial(handle, future)))

    def _receive(self) -> None:
        try:
            self._events.get(timeout=_POLL_S)()
            while True:
                self._events.get_nowait()()
        except queue.Empty:
            pass
        now = time.monotonic()
        if now - self._checked >= _POLL_S:
            self._checked = now
            self._look_for_the_late(now)

    def _look_for_the_late(self, now: float) -> None:
        while late := next((dispatch for dispatch in self._under_way if now > dispatch.due), None):
            self._under_way.discard(late)
            self._lost(late, "a worker did not answer in time")
        waited_for = [seat for seat in self._fleet.seats if seat.starting is not None and now > seat.due]
        if waited_for and len(waited_for) == len(self._fleet.seats):
            raise FleetError(
                f"no worker is left: none of the {len(waited_for)} that were to take the place of dead ones started within "
                f"rollout.start_s={self._config.start_s:g} s"
            )

    def _started(self, seat: Seat, starting: ray.ObjectRef, future: Future) -> None:
        if seat.starting is not starting:
            return
        seat.starting = None
        error = future.exception()
        if error is None:
            if self._fleet.catch_up(seat):
                self._watch(seat)
        elif not isinstance(error, RayTaskError):
            self._replace(seat, f"a worker died while it started: {reason(error)}")
        elif seat.version is None or isinstance(error.cause, UsageError):
            raise error.cause or error from error
        elif seat.behind:  # later weights may have overwritten those that it read
            self._replace(seat, f"a worker failed to take version {seat.version}: {reason(error)}")
        else:
            line = str(error.cause or error).strip().splitlines()[0]
            raise FleetError(f"a worker and its successor failed to take version {seat.version}: {line}") from error

    def _ended(self, dispatch: Dispatch, future: Future) -> None:
        if dispatch not in self._under_way:
            return  # given up before
        self._under_way.discard(dispatch)
        error = future.exception()
        if isinstance(error, RayActorError):
            self._lost(dispatch, f"a worker died: {reason(error)}")
            return
        if isinstance(error, RayTaskError) and isinstance(error.cause, EngineStopped):
            self._lost(dispatch, f"a worker's engine failed: {error.cause}")
            return
        if dispatch.is_current:
            dispatch.seat.load -= 1
        if isinstance(error, RayTaskError) and not is_death(error):
            raise error.cause or error from error
        if isinstance(error, RayError):  # the reply was lost on its way
            self._finished(dispatch, self._kind.failed(dispatch.spec, reason(error)))
            return
        dispatch.seat.deaths = 0
        self._finished(dispatch, future.result())

    def _finished(self, dispatch: Dispatch, reply: E) -> None:
        if reply.failed:
            error = reply.error or "unknown"
            self._fleet.incidents.add("episode", error)
            self._count_failure(error)
            self._retry(dispatch.spec, reply, dispatch)
            return
        self._failures_in_a_row = 0
        spec = dispatch.spec
        if is_repeated(spec, reply.cut, self._config.attempts):
            log.warning("episode %s was cut off by %s: it is repeated", spec.episode_id, reply.cut)
            self._line.append(replace(spec, cut_before=spec.cut_before + 1))
        else:
            self._settle(spec, reply, dispatch)

    def _lost(self, dispatch: Dispatch, error: str) -> None:
        """The worker is gone with this episode, and for the same reason with all others that it runs."""
        others = [other for other in self._under_way if other.worker is dispatch.worker]
        self._under_way.difference_update(others)
        if dispatch.is_current:
            self._replace(dispatch.seat, error)
        for one in (dispatch, *others):
            self._retry(one.spec, self._kind.failed(one.spec, error))

    def _replace(self, seat: Seat, error: str) -> None:
        log.warning("%s: it is replaced", error)
        seat.deaths += 1
        self._count_failure(error)
        if seat.deaths > self._config.attempts:
            raise FleetError(f"a worker died {seat.deaths} times without finishing an episode in between; the last error: {error}")
        self._fleet.replace(seat, error)
        self._watch(seat)

    def _repeat_lost(self) -> None:
        """Repeat the episodes that ended, but whose tokens have been lost since."""
        lost = set(self._kind.lost(self._outcomes.values()))
        for spec in [spec for group in self._groups for spec in group.episodes if spec.episode_id in lost]:
            log.warning("the tokens of episode %s were lost with their node: it is repeated", spec.episode_id)
            del self._outcomes[spec.episode_id]
            error = "its tokens were lost with their node"
            self._fleet.incidents.add("episode", error)
            self._retry(spec, self._kind.failed(spec, error))

    def _retry(self, spec: EpisodeSpec, reply: E, dispatch: Dispatch | None = None) -> None:
        """Repeat one episode, unless it has had its attempts. The rest of its group is not repeated."""
        self._attempts[spec.episode_id] += 1
        if self._attempts[spec.episode_id] < self._config.attempts:
            self._line.append(spec)
        else:
            log.error("episode %s failed %d times: %s", spec.episode_id, self._attempts[spec.episode_id], reply.error)
            self._settle(spec, reply, dispatch)

    def _count_failure(self, error: str) -> None:
        self._failures_in_a_row += 1
        if self._failures_in_a_row >= self._config.max_consecutive_failures:
            raise FleetError(f"{self._failures_in_a_row} infrastructure failures in a row; the last one: {error}")

    def _settle(self, spec: EpisodeSpec, reply: E, dispatch: Dispatch | None) -> None:
        outcome = self._kind.settle(spec, reply, dispatch)
        self._outcomes[spec.episode_id] = outcome
        self._keep(outcome)
        self._advance(len(self._outcomes), "")
        self._played |= not (outcome.unplayed or outcome.failed)
        self._require_played(enough=self._config.max_consecutive_failures)

    def _require_played(self, enough: int) -> None:
        """Raise UsageError if there are `enough` outcomes, and all are questions that could not be put to the policy."""
        if self._played:
            return
        refused = [outcome.error for outcome in self._outcomes.values() if outcome.unplayed]
        if enough <= len(refused) == len(self._outcomes):
            raise UsageError(f"no question could be put to the policy; the first of {len(refused)}: {refused[0]}")


class _Line:
    """The episodes that wait. Those of a group go to one worker, so that it samples from one cached prompt, while it has room."""

    def __init__(self, groups: Iterable[GroupSpec]) -> None:
        self._fresh = deque(deque(group.episodes) for group in groups if group.episodes)
        self._begun: defaultdict[Seat, deque[deque[EpisodeSpec]]] = defaultdict(deque)

    def __bool__(self) -> bool:
        return bool(self._fresh) or any(self._begun.values())

    def append(self, spec: EpisodeSpec) -> None:
        """Let an episode wait for any worker."""
        self._fresh.append(deque([spec]))

    def take(self, free: Sequence[Seat]) -> tuple[Seat, EpisodeSpec]:
        """The next episode, and one of the seats for it: rather one of a group that a seat has begun than of another, and rather
        of another than of one that a seat without room has begun."""
        seat = next((seat for seat in free if self._begun[seat]), free[0])
        groups = self._begun[seat]
        if not groups and self._fresh:
            groups.append(self._fresh.popleft())
        elif not groups:
            groups = next(groups for groups in self._begun.values() if groups)
        spec = groups[0].popleft()
        if not groups[0]:
            groups.popleft()
        return seat, spec


def _repeated(names: Iterable[str]) -> str | None:
    """A name that occurs twice, or None."""
    return next((name for name, count in Counter(names).items() if count > 1), None)
