"""The death of a process is one line that says who and why, also if its peer was the first to notice; a bug stays a bug."""

import os
import signal

import pytest
import ray

from envs.errors import FleetError
from rollout.cluster.deaths import in_one_line


@pytest.fixture(scope="module")
def ranks(cluster):
    """Two processes, of which the second was killed."""

    class Rank:
        def process(self):
            return os.getpid()

        def lose_peer(self):
            raise RuntimeError("connection closed by peer")

    ranks = [ray.remote(Rank).options(num_cpus=0.1).remote() for _ in range(2)]
    processes = ray.get([rank.process.remote() for rank in ranks])
    os.kill(processes[1], signal.SIGKILL)
    return ranks


@pytest.mark.parametrize("by_its_peer", [False, True])
def test_a_death_is_one_line(ranks, by_its_peer):
    with pytest.raises(FleetError) as raised, in_one_line(ranks):
        ray.get(ranks[0].lose_peer.remote() if by_its_peer else ranks[1].process.remote())
    line = str(raised.value)
    assert "\n" not in line
    assert "it was killed, perhaps because memory ran out" in line
    assert "process" in line and line.endswith("resume=true goes on from the last checkpoint")


def test_a_bug_keeps_its_traceback_though_the_run_ends_its_processes(ranks):
    with pytest.raises(RuntimeError, match="connection closed"), in_one_line(ranks[:1]):
        try:
            ray.get(ranks[0].lose_peer.remote())
        finally:
            ray.kill(ranks[0])
