"""A node that is lost amid a step takes its worker and the tokens of finished episodes with it: the other node plays them again,
whether a call was under way there or not, and whether Ray has noticed the loss or not. It goes on without the lost one; a node that
comes later serves the weights of then."""

import os
import signal
import threading
from pathlib import Path

import psutil
import pytest
import ray
import torch
from ray.cluster_utils import Cluster
from rollout_fakes import ScriptedEngine, spec

from rollout.cluster import outcomes
from rollout.cluster.fleet import Fleet
from rollout.config import EngineConfig, RolloutConfig
from rollout.store import Store
from rollout.types import GroupSpec, episodes_of

COUNT = 12


@pytest.fixture(scope="module")
def head():
    """Ray with room for one worker; results stay with the workers, however small."""
    ray.shutdown()
    # A node that refuses a connection is dead after five times; one that is merely slow has ten seconds each time.
    often = {"health_check_period_ms": 300, "health_check_initial_delay_ms": 300}
    with pytest.MonkeyPatch.context() as patch:
        # Inherited by the nodes, so that the workers they start in advance can be used: a runtime_env would ask for others.
        patch.setenv("PYTHONPATH", os.pathsep.join(str(Path(__file__).parents[level]) for level in (3, 1)))
        patch.setenv("RAY_max_direct_call_object_size", "1")
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False, "_system_config": often})
        ray.init(address=cluster.address, log_to_driver=False, configure_logging=False)
        yield cluster
        ray.shutdown()
        cluster.shutdown()


class Node:
    """A second node with room for one worker."""

    def __init__(self, cluster):
        self._cluster = cluster
        self._node = cluster.add_node(num_cpus=1)
        self._raylet = psutil.Process(self._node.all_processes["raylet"][0].process.pid)
        self._stopped = []

    def has(self, worker):
        return ray.get(worker.health.remote())["process"] in {process.pid for process in self._raylet.children(recursive=True)}

    def stop(self):
        """As a machine that hangs: nothing answers, and Ray does not notice for a minute."""
        self._stopped = [self._raylet, *self._raylet.children(recursive=True)]
        for process in self._stopped:
            process.send_signal(signal.SIGSTOP)

    def kill(self):
        if self._node in self._cluster.worker_nodes:
            self._cluster.remove_node(self._node, allow_graceful=False)
        for process in self._stopped:
            if process.is_running():
                process.kill()

    def wait_until_marked_dead(self):
        while any(node["Alive"] for node in ray.nodes() if node["NodeID"] == self._node.node_id):
            threading.Event().wait(0.05)


@pytest.fixture
def node(head):
    node = Node(head)
    yield node
    node.kill()


@pytest.fixture
def fleet(node):
    """A worker on each node, that on the head's first."""
    fleet = Fleet(
        RolloutConfig(
            workers=2,
            cpus_per_worker=1,
            sandboxes_per_worker=0,
            episodes_per_worker=2,
            engine=EngineConfig(kind=ScriptedEngine.KIND),
        )
    )
    fleet.seats.sort(key=lambda seat: node.has(seat.worker))
    assert [node.has(seat.worker) for seat in fleet.seats] == [False, True]
    yield fleet
    fleet.shutdown()


def play(fleet, store, episodes, lose, when):
    """The summaries of episodes; `lose` is called once, as soon as `when` of them have ended."""
    losing = threading.Thread(target=lose)
    summaries = fleet.play(
        [GroupSpec("g", tuple(episodes))],
        store,
        "rl_000000",
        lambda done, text: done == when and not losing.ident and losing.start(),
    )
    losing.join()
    return list(episodes_of(summaries))


def check(fleet, store, summaries):
    """Every episode's tokens are there, and equal the record."""
    fleet.flush()
    assert not any(summary.failed for summary in summaries)
    tokens = {one.episode_id: one.tokens_S.tolist() for one in ray.get([summary.sequences for summary in summaries])}
    written = list(store.trajectories("rl_000000"))
    assert {record.episode_id: record.token_ids for record in written} == tokens
    assert len(written) == len(tokens) == COUNT


def repeated(caplog):
    return [record.args[0] for record in caplog.records if "were lost with their node" in record.msg]


def test_what_is_lost_with_a_node_is_played_again(node, fleet, tmp_path):
    store = Store(tmp_path)
    episodes = [spec(number=number, tool_s=0.1) for number in range(COUNT)]
    summaries = play(fleet, store, episodes, node.kill, when=COUNT // 2)
    check(fleet, store, summaries)


@pytest.mark.parametrize("noticed", [True, False])
def test_nothing_need_be_under_way_on_the_lost_node(node, fleet, tmp_path, monkeypatch, caplog, noticed):
    """All that waits is an episode on the other node, until Ray has noticed; or Ray never does, since all there hangs."""
    store, begun, end = Store(tmp_path), tmp_path / "begun", tmp_path / "end"
    begun.mkdir()

    def lose():
        if noticed:
            node.kill()
            node.wait_until_marked_dead()
            end.touch()
        else:
            monkeypatch.setattr(outcomes, "_ANSWER_S", 2.0)  # at first: a node that is merely slow must not be lost again and again
            node.stop()
            end.touch()
            while not list(begun.glob("*-1")):  # none is played again
                threading.Event().wait(0.05)
            monkeypatch.undo()
            node.kill()  # or what was sent there is waited for

    episodes = [spec(number=number, log=str(begun), until=None if number else str(end)) for number in range(COUNT)]
    summaries = play(fleet, store, episodes, lose, when=COUNT - 1)
    check(fleet, store, summaries)
    assert repeated(caplog)


def test_the_run_goes_on_without_a_lost_node_and_a_later_one_serves_the_newest_weights(head, node, fleet):
    node.kill()
    versions = []
    for version in (1, 2, 3):  # of which the first is overwritten when there is a place again
        fleet.publish({"weight": torch.full((2,), version)}, version)
        (group,) = fleet.collect([GroupSpec("g", (spec(),))])
        versions.append(max(group.episodes[0].trajectory.versions))
    assert versions == [1, 2, 3]
    assert [seat.starting is None for seat in fleet.seats] == [True, False]
    later = Node(head)
    begun = []
    while fleet.seats[1].starting is not None:
        begun += episodes_of(fleet.collect([GroupSpec("g", tuple(spec(number=number, tool_s=0.1) for number in range(8)))]))
    (group,) = fleet.collect([GroupSpec("g", tuple(spec(number=number, tool_s=0.1) for number in range(4)))])
    assert {max(episode.trajectory.versions) for episode in [*begun, *group.episodes]} == {3}
    assert later.has(fleet.seats[1].worker)
    assert fleet.seats[1].version == 3
    later.kill()
