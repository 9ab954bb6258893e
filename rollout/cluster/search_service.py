"""The text index as a Ray Serve deployment, for fleets: every worker of a cluster asks one address instead of holding an index.

It answers in the form of Search-R1's `retrieval_server.py`: `POST /retrieve` with `{"queries": […], "topk": N}` is answered by
`{"result": [[{"document": {"contents": "\\"title\\"\\ntext", …}, "score": …}, …], …]}`, so that our own client, and anybody's who
speaks to such a server, needs no change. Each replica maps the same index; those on one node share its pages.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import JSONResponse

from envs.errors import UsageError
from envs.search.text.index import TextIndex
from rollout.cluster.connect import join
from rollout.config import RolloutConfig

_MOST_RESULTS = 100
_APPLICATION = "toolwise-text-search"


@dataclass
class ServiceConfig:
    """The service of an index."""

    index: str = "runs/index"
    """The directory that `toolwise index corpus=…` wrote, at the same place on every node."""

    host: str = "127.0.0.1"
    """The address to listen at; 0.0.0.0 for a whole cluster."""

    port: int = 8000
    """The port to listen at."""

    replicas: int = 1
    """How many processes answer."""

    cpus_per_replica: float = 1.0
    """CPUs that Ray reserves for each."""


@serve.deployment
class TextSearchServer:
    """One replica."""

    def __init__(self, directory: str) -> None:
        self._index = TextIndex.open(Path(directory))

    async def __call__(self, request: Request) -> JSONResponse:
        try:
            queries, top_k = _parse(await request.json())
        except ValueError as error:
            return JSONResponse({"error": str(error)}, status_code=422)
        found = await asyncio.to_thread(lambda: [self._index.find_scored(query, top_k) for query in queries])
        result = [
            [
                {
                    "document": {
                        "contents": f'"{passage.title}"\n{passage.snippet}',
                        "title": passage.title,
                        "source": passage.source,
                    },
                    "score": score,
                }
                for score, passage in passages
            ]
            for passages in found
        ]
        return JSONResponse({"result": result})


def serve_index(config: ServiceConfig, on_ready: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM. `on_ready` is called with the URL.

    Joins the cluster that RAY_ADDRESS names, or starts Ray here. Raises UsageError if there is no index, the port is taken, or the
    cluster has no room.
    """
    directory = Path(config.index).absolute()
    TextIndex.open(directory)
    if config.replicas < 1:
        raise UsageError(f"replicas={config.replicas}: write at least 1")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((config.host, config.port))
        except OSError as error:
            raise UsageError(
                f"port={config.port} cannot be opened at host={config.host} ({error.strerror}): write another"
            ) from None
    join(RolloutConfig(sandboxes_per_worker=0))
    over = threading.Event()
    before = {number: signal.signal(number, lambda *_: over.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        serve.start(http_options={"host": config.host, "port": config.port}, logging_config={"log_level": "ERROR"})
        deployment: Any = TextSearchServer
        server = deployment.options(
            num_replicas=config.replicas,
            ray_actor_options={"num_cpus": config.cpus_per_replica},
            logging_config={"log_level": "ERROR"},
        )
        serve.run(server.bind(str(directory)), name=_APPLICATION, route_prefix="/retrieve")
        on_ready(f"http://{config.host}:{config.port}/retrieve")
        while not over.wait(1.0):
            pass
    finally:
        with suppress(Exception):  # a cluster that is gone has nothing left to close
            serve.delete(_APPLICATION)
            if not serve.status().applications:  # else they are somebody else's
                serve.shutdown()
        for number, handler in before.items():
            signal.signal(number, handler)
        ray.shutdown()


def _parse(body: Any) -> tuple[list[str], int]:
    """Queries and number of results. Raises ValueError with the remedy."""
    queries = body.get("queries") if isinstance(body, dict) else None
    if not isinstance(queries, list) or not all(isinstance(query, str) for query in queries):
        raise ValueError('write {"queries": ["…"], "topk": 5}')
    top_k = 5 if body.get("topk") is None else body["topk"]
    if not isinstance(top_k, int) or not 1 <= top_k <= _MOST_RESULTS:
        raise ValueError(f"topk is {top_k!r}: write a number from 1 to {_MOST_RESULTS}")
    return queries, top_k
