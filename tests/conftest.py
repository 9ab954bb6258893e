"""One option for the whole suite: `--whole` runs the sandbox's soak, leak and fuzz tests with their full counts (`make soak`), and
Hypothesis with new examples."""

import enum
import os
import re
from collections.abc import Generator

import hypothesis
import pytest
import ray
from openai_server import Server

from envs.runtime.garbage import importing
from rollout.cluster.connect import join
from rollout.config import RolloutConfig
from sandbox.doctor import probe
from sandbox.types import ACCEPT_REDUCED

# An ordinary user's session often has no cgroup of its own. The tests of the sandbox that need one are skipped with the reason;
# the code that all others run is this repository's.
if os.getuid() and probe().level == "reduced":
    os.environ.setdefault(ACCEPT_REDUCED, "1")

# The time of examples means nothing on a shared machine.
UNHURRIED = hypothesis.settings(deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.register_profile("toolwise", UNHURRIED, derandomize=True)
hypothesis.settings.register_profile("toolwise, whole", UNHURRIED)
hypothesis.settings.load_profile("toolwise")

# `make test` gives whole files to its processes, in the order in which they are collected: folders, then the files beside them.
OWN_RAY = ("tests/rollout/cluster/test_lost_node.py", "tests/rollout/cluster/test_sandboxes.py")
LONG_AND_LAST = ("tests/test_book.py", "tests/test_docs.py", "tests/viewer/page/")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--whole", action="store_true", help="soak, leak and fuzz tests of the sandbox with their full counts")


def pytest_configure(config: pytest.Config) -> None:
    """A run tries the same examples as the one before, unless it is for finding new ones."""
    if config.getoption("--whole"):
        hypothesis.settings.load_profile("toolwise, whole")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collecting imports all that the tests use."""
    with importing():
        return (yield)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of the files that would come last, the long ones come first: else one process ends with them while the other has no more.
    Before them come those with a Ray of their own: they would end the one that the others share."""
    items.sort(key=lambda item: (not item.nodeid.startswith(OWN_RAY), not item.nodeid.startswith(LONG_AND_LAST)))


def pytest_make_parametrize_id(val: object) -> str | None:
    """Objects are named by their repr without an address: pytest-xdist needs the same names in every process. Of long ones pytest
    counts the cases."""
    if val is None or isinstance(val, str | bytes | int | float | type | enum.Enum | re.Pattern):
        return None
    name = re.sub(r" at 0x[0-9a-f]+", "", repr(val))
    return name if len(name) <= 100 else None


@pytest.fixture(scope="session")
def whole(request: pytest.FixtureRequest) -> bool:
    return request.config.getoption("--whole")


@pytest.fixture(scope="session")
def own_ray():
    """Whatever Ray this process has at its end is ended."""
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def cluster(own_ray, pytestconfig):
    """Ray on this machine, as the commands start it, whose workers find the modules that tests share. It stays for the next module
    that asks; one with a Ray of its own ends it."""
    if not ray.is_initialized():
        # Inherited by the workers. A runtime_env would cost each of them the start of a process, where some are started in advance.
        with pytest.MonkeyPatch.context() as patch:
            found = (pytestconfig.rootpath, *pytestconfig.getini("pythonpath"))
            patch.setenv("PYTHONPATH", os.pathsep.join(map(str, found)))
            join(RolloutConfig())


@pytest.fixture
def serve():
    """Starts servers in OpenAI's form: `serve(*replies)`."""
    servers = []

    def start(*replies):
        servers.append(Server(*replies))
        return servers[-1]

    yield start
    for server in servers:
        server.close()
