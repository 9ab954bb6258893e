"""One option for the whole suite: `--whole` runs the sandbox's soak, leak and fuzz tests with their full counts (`make soak`)."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--whole", action="store_true", help="soak, leak and fuzz tests of the sandbox with their full counts")


@pytest.fixture(scope="session")
def whole(request: pytest.FixtureRequest) -> bool:
    return request.config.getoption("--whole")
