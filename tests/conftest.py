"""One option for the whole suite: `--whole` runs the sandbox's soak, leak and fuzz tests with their full counts (`make soak`)."""

import hypothesis
import pytest
from openai_server import Server

# How long one example takes says nothing on a machine that others use too.
hypothesis.settings.register_profile("toolwise", deadline=None)
hypothesis.settings.load_profile("toolwise")


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
