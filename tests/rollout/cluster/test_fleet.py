"""Every episode comes back exactly once and in order, whatever dies; only what our infrastructure failed is repeated, sample by
sample; a fleet that cannot work says so."""

import os
import signal
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import ray
import torch
from rollout_fakes import ScriptedEngine, spec

from envs.errors import FleetError, UsageError
from rollout.cluster.fleet import Fleet
from rollout.config import EngineConfig, EpisodeConfig, RolloutConfig
from rollout.types import GroupSpec, StopReason, episodes_of


@pytest.fixture(scope="module")
def cluster():
    """Ray on this machine, whose workers find the fakes."""
    environment = {
        "env_vars": {"PYTHONPATH": os.pathsep.join(str(path) for path in (Path(__file__).parents[3], Path(__file__).parents[1]))}
    }
    ray.shutdown()
    ray.init(
        address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, configure_logging=False, runtime_env=environment
    )
    yield
    ray.shutdown()


def config(directory="", **options):
    defaults = {"cpus_per_worker": 0.5, "sandboxes_per_worker": 0, "episodes_per_worker": 8, "attempts": 3}
    return RolloutConfig(**defaults | options, engine=EngineConfig(kind=ScriptedEngine.KIND, policy=str(directory)))


@pytest.fixture(scope="module")
def fleet(cluster):
    """Two workers, which every test may kill."""
    fleet = Fleet(config(workers=2, max_consecutive_failures=9))
    yield fleet
    fleet.shutdown()


def groups(count, size, changes=None, **options):
    """Groups of episodes that are numbered throughout; `changes` holds other options for the episodes of some numbers."""
    return [
        GroupSpec(
            f"group{group}",
            tuple(
                spec(number=number, group=f"group{group}", **options | (changes or {}).get(number, {}))
                for number in range(size * group, size * group + size)
            ),
        )
        for group in range(count)
    ]


def attempts(directory):
    """How often the episode of each seed was begun."""
    return Counter(int(path.name.split("-")[1]) for path in Path(directory).iterdir())


def collect(fleet, specs, *more):
    """The episodes of a collection, once every one of them has come back in its place."""
    found = fleet.collect(specs, *more)
    assert [group.group_id for group in found] == [group.group_id for group in specs]
    for group, wanted in zip(found, specs, strict=True):
        assert [episode.trajectory.episode_id for episode in group.episodes] == [one.episode_id for one in wanted.episodes]
    return list(episodes_of(found))


def reasons(episodes):
    return {episode.trajectory.stop_reason for episode in episodes}


def test_groups_come_in_order_and_progress_is_reported(fleet, tmp_path):
    reported = []
    episodes = collect(fleet, groups(10, 4, log=str(tmp_path)), lambda done, text: reported.append(done))
    assert reasons(episodes) == {StopReason.ANSWERED}
    assert reported == list(range(1, 41))
    assert set(attempts(tmp_path).values()) == {1}


def test_only_the_failed_sample_is_repeated_and_its_group_is_not(fleet, tmp_path):
    broken = (3, 9)
    trouble = {number: {"trouble": "raise", "times": 2} for number in broken}
    episodes = collect(fleet, groups(4, 4, trouble, log=str(tmp_path)))
    assert reasons(episodes) == {StopReason.ANSWERED}
    assert attempts(tmp_path) == {number: 3 if number in broken else 1 for number in range(16)}


def test_a_sample_that_always_fails_ends_as_infrastructure_after_its_attempts(fleet, tmp_path):
    found = fleet.collect(groups(2, 2, {1: {"trouble": "crash", "times": 99}}, log=str(tmp_path)))
    assert [[episode.failed for episode in group.episodes] for group in found] == [[False, True], [False, False]]
    assert [len(group.sound) for group in found] == [1, 2]
    assert "a bug of the environment" in found[0].episodes[1].error
    assert attempts(tmp_path)[1] == 3


def test_a_question_that_cannot_be_put_is_not_repeated_and_the_others_go_on(fleet, tmp_path):
    kept = []
    episodes = collect(fleet, groups(2, 2, {1: {"trouble": "row"}}, log=str(tmp_path)), lambda done, text: None, kept.append)
    assert [episode.unplayed for episode in episodes] == [False, True, False, False]
    assert attempts(tmp_path) == dict.fromkeys(range(4), 1)
    assert sorted(episode.trajectory.episode_id for episode in kept) == [episode.trajectory.episode_id for episode in episodes]


@pytest.mark.parametrize("repeats", [False, True])
def test_an_episode_that_a_deadline_cuts_off_is_an_outcome_or_repeated_with_its_own_count(cluster, tmp_path, repeats):
    """Episode 1 hangs at its first attempt, 2 whenever it is tried; no number of them is a row of failures."""
    hanging = {1: {"trouble": "hang"}, 2: {"trouble": "hang", "times": 99}}
    limits = EpisodeConfig(turn_s=1.0)
    fleet = Fleet(replace(config(max_consecutive_failures=1), episode=limits))
    specs = groups(2, 2, hanging, log=str(tmp_path), repeat_if_cut=repeats)
    episodes = collect(fleet, specs)
    fleet.shutdown()
    cut = [None, None, "rollout.episode.turn_s=1 s", None] if repeats else [None, *["rollout.episode.turn_s=1 s"] * 2, None]
    assert [episode.cut for episode in episodes] == cut
    assert [episode.cut_before for episode in episodes] == ([0, 1, 2, 0] if repeats else [0] * 4)
    assert attempts(tmp_path) == ({0: 1, 1: 2, 2: 3, 3: 1} if repeats else dict.fromkeys(range(4), 1))
    seeds = [episode.trajectory.seed for episode in episodes]
    assert seeds == [spec.env_seed for group in specs for spec in group.episodes]


@pytest.mark.parametrize("size", [2, 9])
def test_if_no_question_can_be_put_the_run_stops_and_says_why(fleet, size):
    kept = []
    with pytest.raises(UsageError, match=r"no question could be put.*row \d is broken"):
        fleet.collect(groups(2, size, trouble="row", times=99), keep=kept.append)
    assert len(kept) >= min(9, 2 * size)
    collect(fleet, groups(2, 2))


def test_what_was_played_before_counts_for_a_collection_that_goes_on(fleet):
    (group,) = fleet.collect(groups(1, 1, trouble="row", times=99), played=True)
    assert group.episodes[0].unplayed


def test_a_worker_that_dies_amid_its_episodes_is_replaced_with_the_current_weights(fleet, tmp_path):
    fleet.publish({"weight": torch.zeros(2, dtype=torch.bfloat16)}, 7)
    episodes = collect(fleet, groups(8, 4, {5: {"trouble": "kill"}}, log=str(tmp_path), tool_s=0.05))
    assert reasons(episodes) == {StopReason.ANSWERED}
    assert {max(episode.trajectory.versions) for episode in episodes} == {7}


def test_a_worker_whose_engine_has_failed_is_replaced(cluster, tmp_path):
    fleet = Fleet(config(tmp_path))
    process = ray.get(fleet.seats[0].worker.health.remote())["process"]
    (tmp_path / "fuse").touch()
    assert reasons(collect(fleet, groups(3, 2))) == {StopReason.ANSWERED}
    assert ray.get(fleet.seats[0].worker.health.remote())["process"] != process
    fleet.shutdown()
    with pytest.raises(RuntimeError, match="was shut down"):
        fleet.collect(groups(3, 2))


def test_a_worker_killed_between_collections_is_replaced_too(fleet):
    process = ray.get(fleet.seats[0].worker.health.remote())["process"]
    os.kill(process, signal.SIGKILL)
    fleet.publish({}, 2)
    assert {max(episode.trajectory.versions) for episode in collect(fleet, groups(2, 2))} == {2}


def test_a_dead_worker_has_no_notes_and_keeps_nobody_elses(fleet):
    os.kill(ray.get(fleet.seats[0].worker.health.remote())["process"], signal.SIGKILL)
    assert fleet.notes() == []
    fleet.publish({}, 3)
    assert reasons(collect(fleet, groups(2, 2))) == {StopReason.ANSWERED}


def test_failures_in_a_row_stop_the_run_and_name_the_cause(fleet):
    with pytest.raises(FleetError, match=r"9 infrastructure failures in a row.*the wire is cut"):
        fleet.collect(groups(4, 4, trouble="raise", times=99, log=None))
    collect(fleet, groups(2, 2))


def test_a_worker_that_dies_again_and_again_stops_the_run(cluster, tmp_path):
    fleet = Fleet(config(attempts=1, episodes_per_worker=1))
    with pytest.raises(FleetError, match="a worker died 2 times"):
        fleet.collect(groups(4, 1, trouble="kill", times=99, log=str(tmp_path)))
    fleet.shutdown()


def test_a_users_mistake_is_raised_as_such(fleet):
    with pytest.raises(UsageError, match="Nowhere-v0"):
        fleet.collect([*groups(2, 2), GroupSpec("g", (spec("Nowhere-v0"),))])
    with pytest.raises(UsageError, match="no actor 'oracle'"):
        fleet.collect([GroupSpec("g", (spec(actor="oracle"),))])
    collect(fleet, groups(2, 2))


def test_two_episodes_of_one_name_are_refused(fleet):
    with pytest.raises(ValueError, match="'g-0'"):
        fleet.collect([GroupSpec("g", (spec(), spec()))])


def test_a_cluster_that_is_too_small_is_named(cluster):
    with pytest.raises(UsageError, match=r"start_s=1 s.*'GPU': 99"):
        Fleet(config(gpus_per_worker=99, start_s=1.0))
