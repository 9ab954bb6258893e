"""Of the whole suite: how it is shared out between processes (`pytest -n 2 --dist loadgroup`), and the option `--whole`, which runs
the sandbox's soak, leak and fuzz tests with their full counts (`make soak`)."""

from pathlib import Path

import pytest
from openai_server import Server

FIRST = "test_end_to_end.py"  # the longest: what is left for the end should be short
TOGETHER = ("sandbox", "test_bench.py")  # one after another: some count what is on the machine, some measure it


def pytest_itemcollected(item: pytest.Item) -> None:
    """A file's tests stay in one process, and so do those of `TOGETHER`."""
    top = item.path.relative_to(Path(__file__).parent).parts[0]
    item.add_marker(pytest.mark.xdist_group("sandbox" if top in TOGETHER else str(item.path)))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name != FIRST)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--whole", action="store_true", help="soak, leak and fuzz tests of the sandbox with their full counts")


@pytest.fixture(scope="session")
def whole(request: pytest.FixtureRequest) -> bool:
    return request.config.getoption("--whole")


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
