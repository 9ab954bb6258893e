import pytest
from search_servers import Server


@pytest.fixture
def search_server():
    """Starts servers: `search_server(answer, *troubles)`."""
    servers = []

    def start(answer, *troubles, **more):
        servers.append(Server(answer, *troubles, **more))
        return servers[-1]

    yield start
    for server in servers:
        server.close()
