"""Sandboxes on another node behave as a pool of one's own; what dies costs no more than its own sessions; a client that is gone
leaves nothing open; each actor lands where it can work. Two Ray nodes, one with GPUs in name, one with `sandbox`; real jails."""

import asyncio
import contextlib
import os
import signal
import sys
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio
import ray
from PIL import Image
from ray.cluster_utils import Cluster
from ray.exceptions import RayActorError, RayTaskError
from rollout_fakes import ScriptedEngine, group, spec

from envs.errors import UsageError
from rollout.cluster.fleet import Fleet
from rollout.cluster.sandbox_metrics import SandboxCounts
from rollout.cluster.sandboxes import RemotePool, spawn
from rollout.cluster.worker import RolloutWorker
from rollout.config import EngineConfig, EpisodeConfig, RolloutConfig
from rollout.types import StopReason, episodes_of
from sandbox import SandboxUnavailable, Status

# Ray's workers cannot import a test module: they get its classes whole.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])

SIZE = 3
SILENCE_S = 2.0
KEEP_ALIVE_S = 0.2


class PlacedWorker(RolloutWorker):
    """A worker that says where it is."""

    async def node(self):
        return ray.get_runtime_context().get_node_id()


class Client:
    """Somebody with sessions on another node, who may vanish."""

    async def start(self, actors, sessions):
        self._pool = await RemotePool(actors, keep_alive_s=KEEP_ALIVE_S).__aenter__()
        self._tasks = [asyncio.create_task(self._hold()) for _ in range(sessions)]
        return os.getpid()

    async def _hold(self):
        async with self._pool.session() as session:
            await session.run("1")
            await asyncio.sleep(3600)


@pytest.fixture(scope="module")
def cluster():
    """Names of the nodes with the GPUs and with the sandboxes."""
    ray.shutdown()
    with pytest.MonkeyPatch.context() as patch:
        # Inherited by the nodes, so that the workers they start in advance can be used: a runtime_env would ask for others.
        patch.setenv("PYTHONPATH", os.pathsep.join(str(Path(__file__).parents[level]) for level in (3, 1, 0)))
        nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "num_gpus": 2, "include_dashboard": False})
        nodes.add_node(num_cpus=1, resources={"sandbox": 8})
    try:
        ray.init(address=nodes.address, log_to_driver=False, configure_logging=False)
        found = {"sandbox" in node["Resources"]: node["NodeID"] for node in ray.nodes()}
        yield {"gpu": found[False], "sandbox": found[True]}
    finally:
        ray.shutdown()
        nodes.shutdown()


@pytest.fixture(scope="module")
def actor(cluster):
    """A sandbox actor, which every test may kill."""
    actor = started()
    yield actor
    ray.get(actor.close.remote(), timeout=30)
    ray.kill(actor)


@pytest_asyncio.fixture
async def pool(actor):
    async with RemotePool([actor], keep_alive_s=KEEP_ALIVE_S) as pool:
        yield pool
    assert await until(actor, lambda health: health["open"] + health["waiting"] == 0)


def started(size=SIZE):
    actor = spawn(RolloutConfig(sandbox_actors=1, sandboxes_per_actor=size), SILENCE_S)
    try:
        ray.get(actor.ready.remote(), timeout=60)
    except RayTaskError as error:
        if isinstance(error.cause, SandboxUnavailable):
            pytest.skip(str(error.cause))
        raise
    return actor


async def until(actor, condition: Callable[[dict], bool], timeout_s=15.0):
    """Whether the actor's health comes to satisfy a condition."""
    deadline = time.monotonic() + timeout_s
    while not condition(await actor.health.remote()):
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.05)
    return True


def counted(fleet, condition, timeout_s=15.0):
    """What the fleet's status says of its sandboxes, once that satisfies a condition."""
    deadline = time.monotonic() + timeout_s
    while (counts := fleet.status()["sandboxes"]) is None or not condition(counts):
        assert time.monotonic() < deadline, counts
        time.sleep(0.05)
    return counts


def dead(actor, timeout_s=15.0):
    """Whether the actor comes to be gone: a call may be answered while a kill is on its way."""
    deadline = time.monotonic() + timeout_s
    with contextlib.suppress(RayActorError):
        while time.monotonic() < deadline:
            ray.get(actor.health.remote(), timeout=timeout_s)
            time.sleep(0.05)
        return False
    return True


def kill(actor):
    os.kill(ray.get(actor.health.remote(), timeout=30)["process"], signal.SIGKILL)


async def test_prometheus_counts_runs_sessions_and_starts(pool):
    async with pool.session() as session:
        await session.run("1")
        await session.run("1 / 0")
    wanted = (
        "ray_toolwise_sandbox_runs_total{",
        'status="exception"',
        "ray_toolwise_sandbox_run_seconds_bucket{",
        "ray_toolwise_sandbox_session_start_seconds_count{",
        "ray_toolwise_sandbox_sessions{",
        "ray_toolwise_sandbox_jail_starts_total{",
    )
    addresses = [
        f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics" for node in ray.nodes() if node["Alive"]
    ]
    deadline = time.monotonic() + 60
    while missing := {line for line in wanted if line not in await asyncio.to_thread(scrape, addresses)}:
        assert time.monotonic() < deadline, f"not exported: {missing}"
        await asyncio.sleep(1)


def scrape(addresses):
    """What Prometheus would read from all nodes together."""
    text = ""
    for address in addresses:
        with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=5) as answer:
            text += answer.read().decode()
    return text


async def test_state_persists_in_a_session_and_is_not_shared(pool):
    async with pool.session() as one, pool.session() as other:
        assert (await one.run("x = 41")).status is Status.OK
        result = await one.run("x + 1")
        assert (result.status, result.stdout, result.stderr, result.images) == (Status.OK, "42\n", "", ())
        assert (await other.run("'x' in dir()")).stdout == "False\n"


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("print('before'); 1 / 0", Status.EXCEPTION),
        ("import time; print('before', flush=True); time.sleep(9)", Status.TIMEOUT),
        ("import os, signal; print('before', flush=True); os.kill(os.getpid(), signal.SIGKILL)", Status.KILLED),
        ("print('before')\nwhile True: print('x' * 65536)", Status.OUTPUT_LIMIT),
    ],
)
async def test_statuses_and_partial_output_come_back_unchanged(pool, code, status):
    async with pool.session() as session:
        result = await session.run(code, timeout_s=1.0)
    assert result.status is status
    assert result.stdout.startswith("before\n")
    assert result.stderr


async def test_code_that_is_no_unicode_is_the_codes_own_mistake(pool):
    async with pool.session() as session:
        result = await session.run("'\ud800'")
    assert (result.status, "UnicodeEncodeError" in result.stderr) == (Status.EXCEPTION, True)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
async def test_an_image_enters_and_leaves_unchanged(pool, mode):
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, len(mode)), dtype=np.uint8)
    image = Image.fromarray(noise.squeeze())
    async with pool.session(images=[Image.new("RGB", (2, 2)), image]) as session:
        result = await session.run("image_2")
    [shown] = result.images
    assert (shown.mode, shown.size, shown.tobytes()) == (mode, image.size, image.tobytes())


async def test_a_palette_with_transparency_becomes_rgba_as_in_a_pool_of_ones_own(pool):
    image = Image.new("RGBA", (3, 2), (255, 0, 0, 0)).quantize(4)
    async with pool.session(images=[image]) as session:
        assert (await session.run("image_1.mode, image_1.getpixel((0, 0))[3]")).stdout == "('RGBA', 0)\n"


async def test_a_cancelled_run_is_killed_and_the_next_starts_afresh(pool):
    async with pool.session() as session:
        await session.run("x = 1")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await session.run("import time; time.sleep(3600)")
        # The run that was given up would hold the session for 3600 s.
        result = await session.run("'x' in dir()", timeout_s=5)
        assert result.stdout == "False\n"
        assert "started again" in result.stderr


async def test_a_killed_actor_costs_its_sessions_and_is_replaced(pool, actor):
    async with pool.session() as session:
        running = asyncio.create_task(session.run("import time; time.sleep(9)"))
        await asyncio.sleep(0.3)
        kill(actor)
        assert (await running).status is Status.SANDBOX_FAILURE
        assert (await session.run("1")).status is Status.SANDBOX_FAILURE
    async with pool.session() as session:
        assert (await session.run("1")).status is Status.OK


async def test_a_full_actor_makes_the_next_session_wait(pool, actor):
    order = []

    async def another():
        async with pool.session() as session:
            order.append("another")
            await session.run("1")

    async with pool.session(), pool.session():
        async with pool.session() as session:
            waiting = asyncio.create_task(another())
            assert await until(actor, lambda health: (health["open"], health["waiting"]) == (SIZE, 1))
            await session.run("1")
            order.append("first")
        await waiting
    assert order == ["first", "another"]


async def test_a_session_that_is_given_up_while_it_waits_leaves_the_queue(pool, actor):
    async with pool.session(), pool.session(), pool.session():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2), pool.session():
                pass
        assert await until(actor, lambda health: (health["open"], health["waiting"]) == (SIZE, 0))


async def test_the_sessions_of_a_client_that_vanishes_are_closed_and_no_others(pool, actor):
    async with pool.session() as session:
        await session.run("x = 1")
        client = ray.remote(Client).options(num_cpus=0.5, num_gpus=1).remote()
        process = await client.start.remote([actor], SIZE)
        assert await until(actor, lambda health: (health["open"], health["waiting"]) == (SIZE, 1))
        os.kill(process, signal.SIGKILL)
        assert await until(actor, lambda health: (health["open"], health["waiting"]) == (1, 0))
        await asyncio.sleep(2 * SILENCE_S)
        assert (await session.run("x")).stdout == "1\n"


async def test_a_session_that_its_client_does_not_know_is_closed(pool, actor):
    async with pool.session() as session:
        # As if the release had overtaken the opening. It may be found out while it opens.
        with contextlib.suppress(RayTaskError):
            await actor.open.remote(pool._client, next(pool._numbers))
        assert await until(actor, lambda health: health["open"] == 1)
        assert (await session.run("1")).status is Status.OK


async def test_a_closed_pool_says_so(actor):
    async with RemotePool([actor]) as pool:
        pass
    with pytest.raises(RuntimeError, match="closed"):
        async with pool.session():
            pass


async def test_sessions_go_where_the_fewest_are_and_not_to_the_dead(actor):
    other = started()
    async with RemotePool([actor, other], keep_alive_s=KEEP_ALIVE_S) as pool:
        async with pool.session(), pool.session(), pool.session(), pool.session():
            assert [(await one.health.remote())["open"] for one in (actor, other)] == [2, 2]
        ray.kill(other)
        for _ in range(4):
            async with pool.session() as session:
                assert (await session.run("1")).status is Status.OK
    async with RemotePool([other], patience_s=0.6) as pool, pool.session(images=[Image.new("L", (2, 2))]) as session:
        result = await session.run("1")
        assert result.status is Status.SANDBOX_FAILURE
        assert "ActorDiedError" in result.stderr


class Asked:
    """Stands for the handle of an actor: a silent one never answers, which no real one can be made to do in time."""

    def __init__(self, answer=None):
        self.sandboxes, self._answer = self, answer

    def remote(self):
        return self

    def future(self):
        future = Future()
        if isinstance(self._answer, Exception):
            future.set_exception(self._answer)
        elif self._answer is not None:
            future.set_result(self._answer)
        return future


def test_sandboxes_that_are_dead_or_silent_are_not_waited_for(monkeypatch):
    counts = SandboxCounts()
    pools = [{"pool": name, "size": 8, "open": 3, "waiting": waiting, "jails": 2} for name, waiting in (("a", 0), ("b", 5))]
    actors = [*map(Asked, pools), Asked(ValueError("dead")), Asked()]
    assert counts.newest(actors) is None
    monkeypatch.setattr("rollout.cluster.sandbox_metrics.EVERY_S", 0.0)
    known = counts.newest(actors)
    assert known == {"pools": 4, "answered": 2, "open": 6, "free": 10, "waiting": 5, "restarts": 0}
    assert counts.newest(actors[:2])["answered"] == 2  # what was asked before
    assert counts.newest(actors[:2])["restarts"] == 2
    assert counts.newest([]) is None


def test_a_fleet_shares_sandboxes_of_other_nodes_survives_their_death_and_counts_it(cluster, monkeypatch):
    monkeypatch.setattr("rollout.cluster.sandbox_metrics.EVERY_S", 0.25)
    config = RolloutConfig(
        engine=EngineConfig(kind=ScriptedEngine.KIND, max_model_len=16384),
        episode=EpisodeConfig(max_tokens=16384),
        workers=2,
        cpus_per_worker=0.5,
        gpus_per_worker=1,
        sandbox_actors=1,
        sandboxes_per_actor=4,
        start_s=60,
    )
    fleet = Fleet(config, PlacedWorker)
    try:
        [sandboxes] = fleet._sandboxes
        assert {ray.get(seat.worker.node.remote()) for seat in fleet.seats} == {cluster["gpu"]}
        assert ray.get(sandboxes.health.remote())["node"] == cluster["sandbox"]
        experts = {"actor": "expert", "split": "test", "need": 1.0}
        groups = [
            group(
                f"group{number}",
                [spec("toolwise/Reasoning-v0", 4 * number + member, f"group{number}", **experts) for member in range(4)],
            )
            for number in range(6)
        ]
        kills = iter([1])
        assert counted(fleet, lambda counts: counts["free"] == 4)["restarts"] == 0
        found = fleet.collect(groups, lambda done, text: kill(sandboxes) if done > 4 and next(kills, None) else None)
        counts = counted(fleet, lambda counts: counts["restarts"] == 1 and counts["open"] == 0)
        assert counts == {"pools": 1, "answered": 1, "open": 0, "free": 4, "waiting": 0, "restarts": 1}
        episodes = list(episodes_of(found))
        assert {episode.trajectory.stop_reason for episode in episodes} == {StopReason.ANSWERED}
        assert {turn.tool for episode in episodes for turn in episode.trajectory.turns} >= {"code"}
        assert next(kills, None) is None
    finally:
        fleet.shutdown()
    assert dead(sandboxes)


def test_a_cluster_without_room_for_the_sandboxes_is_named(cluster):
    scripted = EngineConfig(kind=ScriptedEngine.KIND)
    with pytest.raises(UsageError, match=r"1 sandbox actors, each for .*'sandbox': 99"):
        Fleet(RolloutConfig(engine=scripted, sandbox_actors=1, sandboxes_per_actor=99, cpus_per_worker=0.5, start_s=1.0))
    with pytest.raises(UsageError, match="sandboxes_per_actor=0"):
        Fleet(RolloutConfig(engine=scripted, sandbox_actors=1, sandboxes_per_actor=0))
