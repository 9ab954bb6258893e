"""Every episode comes back exactly once and in order, whatever dies; only what our infrastructure failed is repeated, sample by
sample; a fleet that cannot work says so. Episodes that are played stay with their workers: what comes back are summaries, with
references to the tokens, and the records are in the workers' shards."""

import json
import os
import re
import signal
import threading
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
from rollout.lint import lint
from rollout.store import Store
from rollout.summary import EpisodeSummary
from rollout.types import GroupSpec, StopReason, episodes_of


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


def play(fleet, specs, directory, name="rl_000000"):
    """The summaries of groups that were played, and the records that the workers wrote of them, by episode."""
    store = Store(directory)
    found = fleet.play(specs, store, name)
    fleet.flush()
    assert store.unfinished() == []
    assert [problem for problem in lint(store.directory) if "its prompt differs" not in problem] == []
    records = {episode.chains[0].episode_id: episode for episode in store.read(name)}
    assert [group.group_id for group in found] == [group.group_id for group in specs]
    assert sorted(records) == sorted(episode.episode_id for group in found for episode in group.episodes)
    return list(episodes_of(found)), records


def writers(directory, name="rl_000000"):
    """The episodes that each shard holds."""
    store = Store(directory)
    return [{json.loads(line)["episode_id"] for line in path.read_text().splitlines()} for path in store.paths(name)]


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
    log = tmp_path / "log"
    log.mkdir()
    fleet = Fleet(replace(config(max_consecutive_failures=1), episode=EpisodeConfig(turn_s=2.0)))
    specs = groups(2, 2, hanging, log=str(log), repeat_if_cut=repeats)
    episodes, records = play(fleet, specs, tmp_path / "run")
    fleet.shutdown()
    passed = "rollout.episode.turn_s=2 s"
    assert [episode.cut for episode in episodes] == ([None, None, passed, None] if repeats else [None, passed, passed, None])
    assert [episode.cut_before for episode in episodes] == ([0, 1, 2, 0] if repeats else [0] * 4)
    assert [episode.sequences is None for episode in episodes] == [not episode.trainable for episode in episodes]
    assert attempts(log) == ({0: 1, 1: 2, 2: 3, 3: 1} if repeats else dict.fromkeys(range(4), 1))
    # Of an episode that was repeated, the last attempt alone is on record.
    lines = [line for path in Store(tmp_path / "run").paths("rl_000000") for line in path.read_text().splitlines()]
    assert len(lines) == 4
    assert [records[episode.episode_id].cut for episode in episodes] == [episode.cut for episode in episodes]


@pytest.mark.parametrize("size", [2, 9])
def test_if_no_question_can_be_put_the_run_stops_and_says_why(fleet, size):
    kept = []
    with pytest.raises(UsageError, match=r"no question could be put.*row \d+ is broken"):
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
    status = fleet.status()
    assert (status["workers"]["wanted"], status["workers"]["replaced"] >= 1, status["episodes"]) == (2, True, None)
    assert any(one["kind"] == "worker" and one["reason"].startswith("a worker died: ") for one in status["errors"])


def test_a_worker_whose_engine_has_failed_is_replaced(cluster, tmp_path):
    fleet = Fleet(config(tmp_path))
    process = ray.get(fleet.seats[0].worker.health.remote())["process"]
    (tmp_path / "fuse").touch()
    assert reasons(collect(fleet, groups(3, 2))) == {StopReason.ANSWERED}
    assert ray.get(fleet.seats[0].worker.health.remote())["process"] != process
    (told,) = (one["reason"] for one in fleet.status()["errors"] if one["kind"] == "worker")
    assert told.startswith("a worker's engine failed: InfrastructureError: the engine has stopped")
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


def test_what_is_played_comes_back_as_summaries_with_references_to_its_sequences(fleet, tmp_path):
    (tmp_path / "log").mkdir()
    trouble = {1: {"trouble": "raise", "times": 2}, 2: {"trouble": "row"}, 3: {"trouble": "crash", "times": 9}}
    summaries, records = play(fleet, groups(4, 4, trouble, log=str(tmp_path / "log")), tmp_path)
    assert [summary.failed for summary in summaries[:4]] == [False, False, False, True]
    assert [summary.unplayed for summary in summaries[:4]] == [False, False, True, False]
    assert records["group0-3"].failed
    for summary in summaries:
        record = records[summary.episode_id]
        assert replace(summary, sequences=None) == EpisodeSummary.of(record)
        if summary.failed or summary.unplayed:
            assert summary.sequences is None
        else:
            assert ray.get(summary.sequences).tokens_S.tolist() == record.chains[0].token_ids


def test_a_repeated_step_replaces_its_shards_whole(fleet, tmp_path):
    store = Store(tmp_path)
    store.shard("rl_000000", "deadbeef").append(next(iter(fleet.collect(groups(1, 1)))).episodes[0])
    play(fleet, groups(6, 2), tmp_path)
    _, records = play(fleet, groups(2, 2), tmp_path)
    assert len(records) == 4


def test_the_members_of_a_group_share_a_worker_that_has_room_for_them(fleet, tmp_path):
    specs = groups(4, 4)
    play(fleet, specs, tmp_path)
    shards = writers(tmp_path)
    assert len(shards) == 2
    for group in specs:
        ids = {spec.episode_id for spec in group.episodes}
        assert any(ids <= shard for shard in shards)


def test_a_group_without_room_on_one_worker_uses_the_free_permits_of_another(cluster, tmp_path):
    fleet = Fleet(config(workers=2, episodes_per_worker=2))
    most, over = [], threading.Event()

    def watch():
        while not over.is_set():
            most.append(max(report["running"] for report in ray.get([seat.worker.health.remote() for seat in fleet.seats])))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        play(fleet, groups(1, 12, tool_s=0.05), tmp_path)
    finally:
        over.set()
        thread.join()
    assert max(most) == 2
    assert len(writers(tmp_path)) == 2
    fleet.shutdown()


def test_the_record_of_a_dead_worker_is_neither_lost_nor_there_twice(fleet, tmp_path):
    (tmp_path / "log").mkdir()
    slow = {number: {"tool_s": 0.2, "turns": 3} for number in range(8, 16)}
    trouble = slow | {15: {"trouble": "kill", "tool_s": 0.2, "turns": 3}}
    summaries, records = play(fleet, groups(4, 4, trouble, log=str(tmp_path / "log")), tmp_path)
    assert {summary.stop_reason for summary in summaries} == {StopReason.ANSWERED}
    assert len(records) == 16


def test_an_episode_that_kills_its_worker_each_time_is_recorded_by_the_driver(cluster, tmp_path):
    fleet = Fleet(config(attempts=2, episodes_per_worker=1))
    (tmp_path / "log").mkdir()
    deadly = {0: {"trouble": "kill", "times": 9}}
    summaries, records = play(fleet, groups(1, 2, deadly, log=str(tmp_path / "log")), tmp_path)
    assert [summary.failed for summary in summaries] == [True, False]
    assert re.fullmatch(
        r"a worker died: RolloutWorker, process \d+ on [\d.]+: it was killed, perhaps .*", records["group0-0"].error
    )
    assert "\n" not in summaries[0].error
    fleet.shutdown()


def test_a_disk_that_fails_is_one_line(fleet, tmp_path):
    fleet.play(groups(1, 2), Store(tmp_path), "nowhere/rl_000000")
    with pytest.raises(FleetError, match=r"rl_000000\.w.*jsonl could not be written: .*No such file"):
        fleet.play(groups(1, 2), Store(tmp_path), "rl_000001")
    collect(fleet, groups(1, 2))
