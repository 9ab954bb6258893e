"""A cluster is asked how much memory its GPUs have; one without GPUs, or whose GPUs nobody sees, says nothing."""

import os
from pathlib import Path

import pytest
import ray
import torch

from rollout.cluster.gpu_memory import gpu_memory_bytes

REAL = torch.cuda.mem_get_info()[1] if torch.cuda.is_available() else None


def test_machines_say_what_their_gpus_have(cluster):
    assert gpu_memory_bytes() == REAL


@pytest.mark.slow  # a cluster of its own
@pytest.mark.skipif(REAL is not None, reason="this is what a machine without a GPU says, and there is one here")
def test_gpus_that_ray_was_told_of_and_nobody_sees_say_nothing():
    ray.shutdown()
    places = {"env_vars": {"PYTHONPATH": str(Path(__file__).parents[3]), "PATH": os.environ["PATH"]}}
    ray.init(address="local", num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False, runtime_env=places)
    try:
        assert gpu_memory_bytes() is None
    finally:
        ray.shutdown()
