"""Ray, once for each module that asks for it."""

import os
from pathlib import Path

import pytest
import ray


@pytest.fixture(scope="module")
def cluster():
    """Ray on this machine, whose workers find the fakes."""
    environment = {
        "env_vars": {"PYTHONPATH": os.pathsep.join(str(path) for path in (Path(__file__).parents[3], Path(__file__).parents[1]))}
    }
    ray.shutdown()
    ray.init(
        address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, configure_logging=False, runtime_env=environment
    )
    yield
    ray.shutdown()
