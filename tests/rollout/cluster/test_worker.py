"""A worker ends an episode at its deadline, keeps the records of what was played, and serves any engine."""

import asyncio
import errno
import threading

import gymnasium
import pytest
from rollout_fakes import Fake, ScriptedEngine, spec

from envs.errors import UsageError
from rollout.cluster.worker import RolloutWorker
from rollout.config import EngineConfig, EpisodeConfig, RolloutConfig
from rollout.store import Store
from rollout.summary import EpisodeSummary
from rollout.types import StopReason


def config(kind=ScriptedEngine.KIND, **options):
    return RolloutConfig(**{"sandboxes_per_worker": 0, "episodes_per_worker": 8, "engine": EngineConfig(kind=kind)} | options)


async def started(**options):
    worker = RolloutWorker(config(**options))
    await worker.start()
    return worker


async def until(condition):
    """Return once the condition holds; the test's own deadline ends a wait in vain."""
    while not condition():
        await asyncio.sleep(0.01)


async def test_an_episode_that_hangs_is_aborted_at_the_deadline_of_its_group(tmp_path):
    worker = await started(group_s=2.0)
    hanging = spec(number=2, log=str(tmp_path), trouble="hang", times=99)
    found = await asyncio.gather(*(worker.run(one) for one in (spec(number=0), spec(number=1), hanging)))
    reasons = [episode.trajectory.stop_reason for episode in found]
    assert reasons == [StopReason.ANSWERED, StopReason.ANSWERED, StopReason.ABORTED]


async def test_a_cancelled_call_ends_its_episode():
    worker = await started()
    before = Fake.open_environments
    call = asyncio.create_task(worker.run(spec(tool_s=3600.0)))
    await until(lambda: Fake.open_environments == before + 1)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await until(lambda: Fake.open_environments == before)
    assert (await worker.health())["running"] == 0


async def test_a_worker_keeps_the_records_and_gives_summary_and_sequences(tmp_path):
    worker, store = await started(), Store(tmp_path)
    shard = store.shard("rl_000000", "0000aaaa")
    played = [await worker.play(spec(number=number), shard, False) for number in range(2)]
    failed, nothing = await worker.play(spec(number=2, trouble="raise", times=9, log=str(tmp_path)), shard, False)
    assert (failed.failed, nothing) == (True, None)
    unplayed, nothing = await worker.play(spec(number=3, trouble="row", times=9, log=str(tmp_path)), shard, False)
    assert (unplayed.unplayed, nothing) == (True, None)
    await worker.play(spec(number=4, trouble="raise", times=9, log=str(tmp_path)), shard, True)
    assert await worker.finish(shard, ["g-0", "g-3", "g-4"]) == set()
    kept = list(store.read("rl_000000"))
    assert [episode.chains[0].episode_id for episode in kept] == ["g-0", "g-3", "g-4"]
    summary, sequences = played[0]
    assert summary == EpisodeSummary.of(kept[0])
    assert sequences.tokens_S.tolist() == kept[0].chains[0].token_ids
    assert summary.lengths == (len(sequences.tokens_S),)


async def test_a_record_that_cannot_be_written_is_an_error_of_its_shard_alone(tmp_path):
    (tmp_path / "file").touch()
    worker = await started()
    broken, sound = Store(tmp_path / "file").shard("a", "0000aaaa"), Store(tmp_path).shard("a", "0000aaaa")
    for shard in (broken, sound):
        await worker.play(spec(), shard, False)
    with pytest.raises(OSError, match="file"):
        await worker.finish(broken, ["g-0"])
    assert await worker.finish(sound, ["g-0"]) == set()


class Slow(gymnasium.Env):
    """Its constructor waits until it is allowed to go on."""

    may_go_on = threading.Event()

    def __new__(cls, **options):
        assert Slow.may_go_on.wait(20)
        return Fake(**options)


async def test_an_environment_is_made_off_the_event_loop():
    gymnasium.register("Slow-v0", entry_point=Slow, order_enforce=False)
    worker = await started()
    call = asyncio.create_task(worker.run(spec("Slow-v0")))
    while not (await worker.health())["running"]:
        await asyncio.sleep(0.01)
    Slow.may_go_on.set()
    assert not (await call).failed
    del gymnasium.registry["Slow-v0"]


async def test_episodes_that_show_the_same_image_share_its_encoded_form(policy_directory):
    worker = await started(engine=EngineConfig(kind="none", policy=policy_directory))
    first, second = [await worker.run(spec(number=number, images=1, actor="expert")) for number in range(2)]
    (sha,) = first.images
    assert second.images[sha] is first.images[sha]


async def test_contradictory_settings_are_refused_at_the_start():
    with pytest.raises(UsageError, match="max_model_len"):
        await started(episode=EpisodeConfig(max_tokens=9999))


async def test_an_engine_that_finds_the_shared_memory_full_says_where_to_make_room(monkeypatch):
    def fail(config, seed):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("rollout.cluster.worker.find_engine", lambda kind: fail)
    with pytest.raises(UsageError, match=r"cannot serve the policy .*No space left on device.*: make room in /dev/shm"):
        await started()


async def test_scripts_need_no_engine_but_a_policy_does(policy_directory):
    worker = await started(engine=EngineConfig(kind="none", policy=policy_directory))
    assert not (await worker.run(spec(actor="expert"))).failed
    with pytest.raises(UsageError, match=r"rollout\.engine\.kind=none samples nothing"):
        await worker.run(spec())


async def test_an_engine_without_publish_says_that_it_takes_no_weights(policy_directory):
    worker = await started(engine=EngineConfig(kind="endpoint", policy=policy_directory))
    with pytest.raises(UsageError, match=r"rollout\.engine\.kind=endpoint takes no new weights"):
        await worker.publish({}, 1)
    await worker.close()
