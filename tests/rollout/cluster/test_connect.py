"""A driver that has started Ray on this machine ends as any process does on SIGTERM; GPUs that nobody would use are refused."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
import ray

from envs.errors import InfrastructureError, UsageError
from rollout.cluster.connect import join
from rollout.config import EngineConfig, RolloutConfig


def test_a_driver_that_gets_sigterm_can_close_what_it_holds(cluster):
    """Ray's own handler would print a stack and die."""
    never = ray.remote(num_cpus=0)(lambda: time.sleep(60)).remote()
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
    with pytest.raises(KeyboardInterrupt):
        ray.get(never, timeout=20)
    ray.cancel(never, force=True)


def test_sigterm_while_ray_starts_is_an_interruption(monkeypatch):
    """Ray sets a handler of its own at the beginning of its start, which exits without a word."""
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **settings: sys.exit(signal.SIGTERM))
    with pytest.raises(KeyboardInterrupt):
        join(RolloutConfig(sandboxes_per_worker=0))


def test_ray_starts_for_a_user_without_a_home_directory(tmp_path, monkeypatch):
    """Ray would keep the token of its cluster there."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "")  # so that it is put back
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **settings: sys.exit(len(os.environ["RAY_AUTH_TOKEN"])))
    with pytest.raises(KeyboardInterrupt):
        join(RolloutConfig(sandboxes_per_worker=0))


def test_a_directory_in_which_ray_cannot_start_is_not_called_a_busy_machine(monkeypatch):
    def fail(**settings):
        raise OSError("AF_UNIX path length cannot exceed 107 bytes: /scratch/job/ray/plasma_store")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", fail)
    with pytest.raises(InfrastructureError, match=r"/scratch/job/ray.*as in RAY_TMPDIR=/tmp$"):
        join(RolloutConfig(sandboxes_per_worker=0))


def test_workers_have_the_priority_of_the_command_that_started_them(cluster):
    niceness = ray.remote(num_cpus=0)(lambda: os.getpriority(os.PRIO_PROCESS, 0)).remote()
    assert ray.get(niceness, timeout=60) == os.getpriority(os.PRIO_PROCESS, 0)


def test_workers_outlive_jails_when_memory_ends(cluster):
    score = ray.remote(num_cpus=0)(lambda: int(Path("/proc/self/oom_score_adj").read_text())).remote()
    assert ray.get(score, timeout=60) < 500  # of a jail's init; its interpreters have 1000


def test_workers_that_only_ask_servers_need_no_gpu():
    with pytest.raises(UsageError, match=r"rollout\.gpus_per_worker=1: .* write 0"):
        join(RolloutConfig(engine=EngineConfig(kind="verl"), gpus_per_worker=1, sandboxes_per_worker=0))
