"""A node that is lost amid a step takes its worker and the tokens of finished episodes with it: the other node plays them again."""

import os
import threading
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster
from rollout_fakes import ScriptedEngine, spec

from rollout.cluster.fleet import Fleet
from rollout.config import EngineConfig, RolloutConfig
from rollout.store import Store
from rollout.types import GroupSpec, episodes_of

COUNT = 16


@pytest.fixture
def nodes():
    """Two nodes with room for one worker each; results stay on them, however small."""
    ray.shutdown()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    other = cluster.add_node(num_cpus=1)
    places = os.pathsep.join(str(path) for path in (Path(__file__).parents[3], Path(__file__).parents[1]))
    environment = {"env_vars": {"PYTHONPATH": places, "RAY_max_direct_call_object_size": "1"}}
    ray.init(address=cluster.address, log_to_driver=False, configure_logging=False, runtime_env=environment)
    yield cluster, other
    ray.shutdown()
    cluster.shutdown()


# Slow: on a machine that does other work as well, Ray may not know in time what was lost.
@pytest.mark.slow
def test_what_is_lost_with_a_node_is_played_again(nodes, tmp_path):
    cluster, other = nodes
    config = RolloutConfig(
        workers=2, cpus_per_worker=1, sandboxes_per_worker=0, episodes_per_worker=2, engine=EngineConfig(kind=ScriptedEngine.KIND)
    )
    fleet, store = Fleet(config), Store(tmp_path)

    def lose():
        # Long before the rest is played, so that calls are under way when the node goes.
        while sum(path.read_bytes().count(b"\n") for path in store.unfinished()) < COUNT // 4:
            over.wait(0.02)
        cluster.remove_node(other, allow_graceful=False)

    over = threading.Event()
    thread = threading.Thread(target=lose)
    thread.start()
    groups = [GroupSpec("g", tuple(spec(number=number, tool_s=0.2) for number in range(COUNT)))]
    summaries = list(episodes_of(fleet.play(groups, store, "rl_000000")))
    thread.join()
    fleet.flush()
    assert not any(summary.failed for summary in summaries)
    tokens = {one.episode_id: one.tokens_S.tolist() for one in ray.get([summary.sequences for summary in summaries])}
    written = list(store.trajectories("rl_000000"))
    assert {record.episode_id: record.token_ids for record in written} == tokens
    assert len(written) == len(tokens) == COUNT
    fleet.shutdown()
