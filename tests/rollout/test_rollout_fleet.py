"""Every spec comes back exactly once and in order, whatever dies; only what the machine failed is repeated, sample by sample; a
fleet that cannot work says so."""

import asyncio
import os
import signal
from collections import Counter
from pathlib import Path

import pytest
import ray
import torch
from rollout_fakes import FakeWorker, spec

from envs.errors import FleetError, UsageError
from rollout.cluster.fleet import Fleet
from rollout.cluster.worker import RolloutWorker
from rollout.config import EngineConfig, EpisodeConfig, RolloutConfig
from rollout.types import StopReason


@pytest.fixture(scope="module")
def cluster():
    """Ray on this machine, whose workers find the fakes."""
    environment = {
        "env_vars": {"PYTHONPATH": os.pathsep.join(str(path) for path in (Path(__file__).parents[2], Path(__file__).parent))}
    }
    ray.shutdown()
    ray.init(
        address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, configure_logging=False, runtime_env=environment
    )
    yield
    ray.shutdown()


def config(**options):
    return RolloutConfig(**{"cpus_per_worker": 0.5, "sandboxes_per_worker": 0, "episodes_per_worker": 8, "attempts": 3} | options)


@pytest.fixture(scope="module")
def fleet(cluster):
    """Two workers, which every test may kill."""
    fleet = Fleet(config(workers=2, max_consecutive_failures=9), FakeWorker)
    yield fleet
    fleet.shutdown()


def groups(count, size, **options):
    return [
        spec(number=size * group + member, group=f"group{group}", **options) for group in range(count) for member in range(size)
    ]


def attempts(directory):
    """How often the episode of each seed was begun."""
    return Counter(int(path.name.split("-")[1]) for path in Path(directory).iterdir())


def assert_each_once(episodes, specs):
    assert [episode.trajectory.episode_id for episode in episodes] == [one.episode_id for one in specs]


def test_outcomes_come_in_the_order_of_the_specs_and_progress_is_told(fleet, tmp_path):
    specs, told = groups(10, 4, log=str(tmp_path)), []
    episodes = fleet.collect(specs, lambda done, total: told.append((done, total)))
    assert_each_once(episodes, specs)
    assert {episode.trajectory.stop_reason for episode in episodes} == {StopReason.ANSWERED}
    assert told == [(done, 40) for done in range(1, 41)]
    assert set(attempts(tmp_path).values()) == {1}


def test_only_the_failed_sample_is_repeated_and_its_group_is_not(fleet, tmp_path):
    specs = groups(4, 4, log=str(tmp_path))
    broken = [3, 9]
    for number in broken:
        specs[number] = spec(number=number, group=f"group{number // 4}", log=str(tmp_path), trouble="raise", times=2)
    episodes = fleet.collect(specs)
    assert_each_once(episodes, specs)
    assert {episode.trajectory.stop_reason for episode in episodes} == {StopReason.ANSWERED}
    assert attempts(tmp_path) == {number: 3 if number in broken else 1 for number in range(16)}


def test_a_sample_that_always_fails_ends_as_infrastructure_after_its_attempts(fleet, tmp_path):
    specs = groups(2, 2, log=str(tmp_path))
    specs[1] = spec(number=1, group="group0", log=str(tmp_path), trouble="crash", times=99)
    episodes = fleet.collect(specs)
    assert_each_once(episodes, specs)
    assert [episode.trajectory.stop_reason.value for episode in episodes].count("INFRASTRUCTURE") == 1
    assert "a bug of the environment" in episodes[1].error
    assert attempts(tmp_path)[1] == 3


def test_a_worker_that_dies_amid_its_episodes_is_replaced_with_the_current_weights(fleet, tmp_path):
    fleet.publish({"weight": torch.zeros(2, dtype=torch.bfloat16)}, 7)
    specs = groups(8, 4, log=str(tmp_path), tool_s=0.05)
    specs[5] = spec(number=5, group="group1", log=str(tmp_path), trouble="kill")
    episodes = fleet.collect(specs)
    assert_each_once(episodes, specs)
    assert {episode.trajectory.stop_reason for episode in episodes} == {StopReason.ANSWERED}
    assert {max(episode.trajectory.versions) for episode in episodes} == {7}


def test_a_worker_whose_engine_has_failed_is_replaced(cluster, tmp_path):
    fleet = Fleet(config(engine=EngineConfig(policy=str(tmp_path))), FakeWorker)
    process = ray.get(fleet.seats[0].worker.health.remote())["process"]
    (tmp_path / "fuse").touch()
    specs = groups(3, 2)
    episodes = fleet.collect(specs)
    assert_each_once(episodes, specs)
    assert {episode.trajectory.stop_reason for episode in episodes} == {StopReason.ANSWERED}
    assert ray.get(fleet.seats[0].worker.health.remote())["process"] != process
    fleet.shutdown()
    with pytest.raises(RuntimeError, match="was shut down"):
        fleet.collect(specs)


def test_a_worker_killed_between_collections_is_replaced_too(fleet):
    process = ray.get(fleet.seats[0].worker.health.remote())["process"]
    os.kill(process, signal.SIGKILL)
    fleet.publish({}, 2)
    specs = groups(2, 2)
    episodes = fleet.collect(specs)
    assert_each_once(episodes, specs)
    assert {max(episode.trajectory.versions) for episode in episodes} == {2}


async def test_a_group_that_hangs_is_aborted_at_its_deadline(tmp_path):
    worker = FakeWorker(config(group_s=0.5))
    await worker.start()
    specs = groups(1, 3)
    specs[2] = spec(number=2, group="group0", log=str(tmp_path), trouble="hang", times=99)
    reasons = [episode.trajectory.stop_reason for episode in await worker.run(specs)]
    assert reasons == [StopReason.ANSWERED, StopReason.ANSWERED, StopReason.ABORTED]


async def test_a_cancelled_call_ends_its_episodes():
    worker = FakeWorker(config())
    await worker.start()
    call = asyncio.create_task(worker.run(groups(1, 3, tool_s=30.0)))
    await asyncio.sleep(0.2)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await asyncio.sleep(0.1)
    assert (await worker.health())["running"] == 0


async def test_a_worker_runs_no_more_episodes_at_a_time_than_it_is_told(tmp_path):
    worker = FakeWorker(config(episodes_per_worker=2))
    await worker.start()
    running = asyncio.create_task(worker.run(groups(2, 3, tool_s=0.1)))
    await asyncio.sleep(0.05)
    assert (await worker.health())["running"] == 2
    await running


def test_failures_in_a_row_stop_the_run_and_name_the_cause(fleet):
    with pytest.raises(FleetError, match=r"9 infrastructure failures in a row.*the wire is cut"):
        fleet.collect(groups(4, 4, trouble="raise", times=99, log=None))
    assert_each_once(fleet.collect(groups(2, 2)), groups(2, 2))


def test_a_worker_that_dies_again_and_again_stops_the_run(cluster, tmp_path):
    fleet = Fleet(config(attempts=1, episodes_per_worker=1), FakeWorker)
    with pytest.raises(FleetError, match="a worker died 2 times"):
        fleet.collect(groups(4, 1, trouble="kill", times=99, log=str(tmp_path)))
    fleet.shutdown()


def test_a_users_mistake_is_raised_as_such(fleet):
    with pytest.raises(UsageError, match="Nowhere-v0"):
        fleet.collect([*groups(2, 2), spec("Nowhere-v0")])
    with pytest.raises(UsageError, match="no actor 'oracle'"):
        fleet.collect([spec(actor="oracle")])
    assert_each_once(fleet.collect(groups(2, 2)), groups(2, 2))


async def test_contradictory_settings_are_refused_at_the_start():
    with pytest.raises(UsageError, match="max_model_len"):
        await RolloutWorker(config(episode=EpisodeConfig(max_tokens=9999))).start()


def test_a_cluster_that_is_too_small_is_named(cluster):
    with pytest.raises(UsageError, match=r"start_s=1 s.*'GPU': 99"):
        Fleet(config(gpus_per_worker=99, start_s=1.0), FakeWorker)
