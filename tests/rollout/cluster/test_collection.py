"""What a collection says of itself while it goes on, on workers without Ray: every episode ended, runs or waits, and what failed is
counted with its reason."""

from concurrent.futures import Future
from types import SimpleNamespace

import pytest
from rollout_fakes import spec

from envs.errors import FleetError
from envs.runtime.progress import Incidents
from rollout.cluster.collection import Collection
from rollout.cluster.seats import Seat
from rollout.config import RolloutConfig
from rollout.episode.loop import failed_episode
from rollout.types import GroupSpec


class Seats:
    """Two places, and the failures that were reported."""

    def __init__(self):
        self.seats, self.incidents = [Seat("a"), Seat("b")], Incidents()

    def replace(self, seat, why):
        self.incidents.add("worker", why)

    def catch_up(self, seat):
        return False


class Scripted:
    """Attempts that end at once: the first `failures` of each episode because our infrastructure failed."""

    def __init__(self, failures=0):
        self.failures, self.begun, self.look = failures, [], lambda: None

    def begin(self, dispatch, last):
        self.look()
        attempt = self.begun.count(dispatch.spec.episode_id)
        self.begun.append(dispatch.spec.episode_id)
        future = Future()
        future.set_result(self.failed(dispatch.spec, "the jail broke" if attempt < self.failures else None))
        return SimpleNamespace(future=lambda: future), None

    def failed(self, spec, error):
        if error is not None:
            return failed_episode(spec, error)
        return SimpleNamespace(failed=False, unplayed=False, trainable=True, cut=None, error=None)

    def settle(self, spec, reply, dispatch):
        return reply

    def lost(self, outcomes):
        return []


def collection(kind, **options):
    """Six episodes in two groups, of which two workers take two each at a time."""
    seats = Seats()
    groups = [GroupSpec(f"g{group}", tuple(spec(number=3 * group + place) for place in range(3))) for group in range(2)]
    config = RolloutConfig(episodes_per_worker=2, **options)
    seen = []
    run = Collection(seats, config, kind, groups, lambda done, text: seen.append(run.counts()), lambda outcome: None, False)
    kind.look = lambda: seen.append(run.counts())
    return run, seats, seen


def test_every_episode_has_ended_or_runs_or_waits():
    run, _, seen = collection(Scripted())
    run.run()
    assert all(one["finished"] + one["running"] + one["waiting"] == one["of"] == 6 for one in seen)
    assert seen[0] == {"of": 6, "finished": 0, "running": 0, "waiting": 6}
    assert max(one["running"] for one in seen) <= 4
    assert run.counts() == {"of": 6, "finished": 6, "running": 0, "waiting": 0}


def test_an_attempt_that_failed_is_counted_with_its_reason():
    run, seats, _ = collection(Scripted(failures=1))
    run.run()
    assert seats.incidents.counts() == {"episode": 6}
    assert [(one["reason"], one["times"]) for one in seats.incidents.newest()] == [("the jail broke", 6)]


def test_what_ended_the_collection_is_among_them():
    run, seats, _ = collection(Scripted(failures=9), max_consecutive_failures=4)
    with pytest.raises(FleetError, match="the jail broke"):
        run.run()
    assert seats.incidents.counts() == {"episode": 4}
