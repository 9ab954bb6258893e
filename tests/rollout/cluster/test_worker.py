"""A worker runs a group under one deadline and no more episodes at a time than it may; it serves any engine."""

import asyncio
import threading

import gymnasium
import pytest
from rollout_fakes import Fake, ScriptedEngine, spec

from envs.errors import UsageError
from rollout.cluster.worker import RolloutWorker
from rollout.config import EngineConfig, EpisodeConfig, RolloutConfig
from rollout.types import GroupSpec, StopReason


def config(kind=ScriptedEngine.KIND, **options):
    return RolloutConfig(**{"sandboxes_per_worker": 0, "episodes_per_worker": 8, "engine": EngineConfig(kind=kind)} | options)


async def started(**options):
    worker = RolloutWorker(config(**options))
    await worker.start()
    return worker


def group(*specs):
    return GroupSpec("g", specs)


async def until(condition):
    """Return once the condition holds; the test's own deadline ends a wait in vain."""
    while not condition():
        await asyncio.sleep(0.01)


async def test_a_group_that_hangs_is_aborted_at_its_deadline(tmp_path):
    worker = await started(group_s=0.5)
    hanging = spec(number=2, log=str(tmp_path), trouble="hang", times=99)
    found = await worker.run(group(spec(number=0), spec(number=1), hanging))
    reasons = [episode.trajectory.stop_reason for episode in found.episodes]
    assert reasons == [StopReason.ANSWERED, StopReason.ANSWERED, StopReason.ABORTED]


async def test_a_cancelled_call_ends_its_episodes():
    worker = await started()
    before = Fake.open_environments
    call = asyncio.create_task(worker.run(group(*(spec(number=number, tool_s=3600.0) for number in range(3)))))
    await until(lambda: Fake.open_environments == before + 3)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await until(lambda: Fake.open_environments == before)
    assert (await worker.health())["running"] == 0


async def test_a_worker_runs_no_more_episodes_at_a_time_than_configured():
    worker = await started(episodes_per_worker=2)
    before = Fake.open_environments
    running = asyncio.create_task(worker.run(group(*(spec(number=number, tool_s=0.1) for number in range(6)))))
    seen = set()
    while not running.done():
        seen.add(Fake.open_environments - before)
        await asyncio.sleep(0.005)
    assert max(seen) == 2
    assert len((await running).sound) == 6


class Slow(gymnasium.Env):
    """Its constructor waits until it is allowed to go on."""

    may_go_on = threading.Event()

    def __new__(cls, **options):
        assert Slow.may_go_on.wait(20)
        return Fake(**options)


async def test_an_environment_is_made_off_the_event_loop():
    gymnasium.register("Slow-v0", entry_point=Slow, order_enforce=False)
    worker = await started()
    call = asyncio.create_task(worker.run(group(spec("Slow-v0"))))
    while not (await worker.health())["running"]:
        await asyncio.sleep(0.01)
    Slow.may_go_on.set()
    assert len((await call).sound) == 1
    del gymnasium.registry["Slow-v0"]


async def test_contradictory_settings_are_refused_at_the_start():
    with pytest.raises(UsageError, match="max_model_len"):
        await started(episode=EpisodeConfig(max_tokens=9999))


async def test_scripts_need_no_engine_but_a_policy_does(policy_directory):
    worker = await started(engine=EngineConfig(kind="none", policy=policy_directory))
    assert len((await worker.run(group(spec(actor="expert")))).sound) == 1
    with pytest.raises(UsageError, match=r"rollout\.engine\.kind=none samples nothing"):
        await worker.run(group(spec()))


async def test_an_engine_without_publish_says_that_it_takes_no_weights(policy_directory):
    worker = await started(engine=EngineConfig(kind="endpoint", policy=policy_directory))
    with pytest.raises(UsageError, match=r"rollout\.engine\.kind=endpoint takes no new weights"):
        await worker.publish({}, 1)
    await worker.close()
