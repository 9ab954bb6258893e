"""What comes back of episodes: whole ones, or summaries of them while their workers keep the rest."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Collection, Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError
from ray.experimental import get_object_locations
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from envs.errors import FleetError
from rollout.cluster.seats import Dispatch, writer_id
from rollout.episode.loop import failed_episode
from rollout.store import Shard, Store
from rollout.summary import EpisodeSummary
from rollout.types import Ended, Episode, EpisodeSpec

log = logging.getLogger(__name__)

_WRITE_S = 600.0
_ANSWER_S = 60.0


class Outcome(Ended, Protocol):
    """What comes back of an episode. The names mean what they mean in a `Trajectory`."""

    @property
    def unplayed(self) -> bool: ...

    @property
    def trainable(self) -> bool: ...

    @property
    def cut(self) -> str | None: ...

    @property
    def error(self) -> str | None: ...


class Kind[E: Outcome](Protocol):
    """How a collection asks for what it wants to know of its episodes."""

    def begin(self, dispatch: Dispatch, last: bool) -> tuple[Any, Any]:
        """Begin an episode. References to the reply, and to what stays where it is, if there is any."""
        ...

    def settle(self, spec: EpisodeSpec, reply: E, dispatch: Dispatch | None) -> E:
        """The outcome of an episode, now that it is final; without `dispatch`, nothing ever came back of it."""
        ...

    def failed(self, spec: EpisodeSpec, error: str) -> E:
        """The outcome of an attempt of which nothing came back."""
        ...

    def lost(self, outcomes: Iterable[E]) -> list[str]:
        """The ids of the episodes of which a part has been lost since they ended."""
        ...


class Whole:
    """Whole episodes, with their images."""

    def begin(self, dispatch: Dispatch, last: bool) -> tuple[Any, Any]:
        return dispatch.worker.run.remote(dispatch.spec), None

    def settle(self, spec: EpisodeSpec, reply: Episode, dispatch: Dispatch | None) -> Episode:
        return reply

    def failed(self, spec: EpisodeSpec, error: str) -> Episode:
        return failed_episode(spec, error)

    def lost(self, outcomes: Iterable[Episode]) -> list[str]:
        return []


class Summarised:
    """Summaries. Each worker writes a shard of `name` in `store`, in place of all that bore the name; the driver writes one of the
    episodes that no worker ended. Raises FleetError if the directory cannot be written to."""

    def __init__(self, store: Store, name: str) -> None:
        self._store, self._name = store, name
        self._workers: dict[str, Any] = {}
        self._writers: dict[str, str] = {}  # by episode
        self._own = store.shard(name, writer_id())
        with _one_line(self._own):
            store.clear(name)

    def begin(self, dispatch: Dispatch, last: bool) -> tuple[Any, Any]:
        self._workers[dispatch.writer] = dispatch.worker
        shard = self._store.shard(self._name, dispatch.writer)
        return dispatch.worker.play.options(num_returns=2).remote(dispatch.spec, shard, last)

    def settle(self, spec: EpisodeSpec, reply: EpisodeSummary, dispatch: Dispatch | None) -> EpisodeSummary:
        if dispatch is None:
            self._writers[spec.episode_id] = self._own.writer
            with _one_line(self._own):
                self._own.append(failed_episode(spec, reply.error or "unknown"))
            return reply
        self._writers[spec.episode_id] = dispatch.writer
        return replace(reply, sequences=dispatch.kept) if reply.trainable else reply

    def failed(self, spec: EpisodeSpec, error: str) -> EpisodeSummary:
        return EpisodeSummary.of(failed_episode(spec, error))

    def lost(self, outcomes: Iterable[EpisodeSummary]) -> list[str]:
        """Those whose sequences lay on a node that is gone.

        Whether Ray has noticed does not matter. Before, it still names the node as their place. Afterwards it has put an error in
        their stead, which counts as an object on the driver's own node: only reading tells it from the sequences.
        """
        kept: defaultdict[str, dict[Any, str]] = defaultdict(dict)  # by writer
        for outcome in outcomes:
            if outcome.sequences is not None:
                kept[self._writers[outcome.episode_id]][outcome.sequences] = outcome.episode_id
        # A worker that answers is on a node that lives, and so is what it left there.
        silent = _unanswered({writer: self._workers[writer].__ray_ready__.remote() for writer in kept})
        doubtful = {ref: episode_id for writer in silent for ref, episode_id in kept[writer].items()}
        if not doubtful:
            return []
        found = get_object_locations(list(doubtful))
        places = {ref: set(found[ref]["node_ids"]) if ref in found else set() for ref in doubtful}
        gone = _gone(set().union(*places.values()))
        here = gone | {ray.get_runtime_context().get_node_id()}
        lost = {ref for ref, nodes in places.items() if nodes and nodes <= gone and not found[ref]["did_spill"]}
        lost |= _unanswered({ref: ref for ref, nodes in places.items() if nodes <= here and ref not in lost})
        return [doubtful[ref] for ref in lost]

    def finish(self) -> list[Writing]:
        """Have every shard finished in the background, with the episodes whose outcome came from it."""
        episodes: defaultdict[str, set[str]] = defaultdict(set)
        for episode_id, writer in self._writers.items():
            episodes[writer].add(episode_id)
        if own := episodes.get(self._own.writer):
            with _one_line(self._own):
                self._own.finish(own)
        shards = {writer: self._store.shard(self._name, writer) for writer in self._workers}
        return [
            Writing(worker.finish.remote(shards[writer], episodes[writer]), shards[writer], episodes[writer])
            for writer, worker in self._workers.items()
        ]


def _gone(nodes: Collection[str]) -> set[str]:
    """Those of some nodes that run nothing any more."""
    ask = ray.remote(num_cpus=0)(lambda: None)
    return _unanswered(
        {node: ask.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote() for node in nodes}
    )


def _unanswered[K](calls: Mapping[K, Any]) -> set[K]:
    """Those of some calls of which no value comes: an error, or nothing in time."""
    if not calls:
        return set()
    ended, _ = ray.wait(list(calls.values()), num_returns=len(calls), timeout=_ANSWER_S)
    answered = set(ended)
    return {key for key, call in calls.items() if call not in answered or _is_error(call)}


def _is_error(ref: ray.ObjectRef) -> bool:
    try:
        ray.get(ref, timeout=_ANSWER_S)
    except RayError:
        return True
    return False


@dataclass(frozen=True, slots=True)
class Writing:
    """A shard that a worker is about to finish."""

    call: Any
    shard: Shard
    episode_ids: Collection[str]

    def wait(self) -> None:
        """Return once it is finished; if its worker has died, finish it here. Raises FleetError if it cannot be written."""
        try:
            missing = ray.get(self.call, timeout=_WRITE_S)
        except GetTimeoutError as error:
            raise FleetError(f"{self.shard.path} was not written within {_WRITE_S:g} s") from error
        except RayTaskError as error:
            raise _unwritten(self.shard, error.cause or error) from error
        except RayError:
            with _one_line(self.shard):
                missing = self.shard.finish(self.episode_ids)
        if missing:
            log.warning("%s lacks %d of %d episodes: their worker died", self.shard.path, len(missing), len(self.episode_ids))
        elif self.episode_ids and not self.shard.path.exists():
            log.warning("%s was written but is not to be seen here: all nodes must share the file system", self.shard.path)


@contextmanager
def _one_line(shard: Shard) -> Generator[None]:
    """Raise FleetError if the shard cannot be written."""
    try:
        yield
    except OSError as error:
        raise _unwritten(shard, error) from error


def _unwritten(shard: Shard, error: Exception) -> FleetError:
    reason = error if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
    return FleetError(f"{shard.path} could not be written: {reason}")
