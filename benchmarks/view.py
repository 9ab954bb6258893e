"""`toolwise bench view`: the page's server over 100,000 trajectories with images, beside its limits and reading the files."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import urlencode, urlsplit

from benchmarks.figures import Figure
from benchmarks.view_run import write_run

EPISODES = 100_000
FIRST_VIEW_S, FILTER_MS, MEMORY_MB = 1.0, 200.0, 500.0
_REPEATS = 5
_FILTERS: tuple[dict[str, str], ...] = (
    {},
    {"name": "rl_000050"},
    {"ability": "search"},
    {"tool": "text_search"},
    {"status": "error"},
    {"need": "not_needed", "used": "yes"},
    {"stop": "TURN_LIMIT"},
    {"correct": "no"},
    {"reward_min": "0.3", "reward_max": "0.7"},
    {"sort": "-tokens"},
    {"ability": "search", "tool": "code", "correct": "no", "sort": "reward"},
)
_SEARCHES = ("needle", "rare7word", "image_1.crop", "the plate", "图中", "zq")


def measure(rounds: int, advance: Callable[[int, str], None], episodes: int = EPISODES) -> list[Figure]:
    """A server with an empty index in each round, over one set of files."""
    limits = "the limit"
    figures = {
        name: Figure(name, unit, of)
        for name, unit, of in (
            ("first_view", "s", limits),
            ("filter", "ms", limits),
            ("filter_worst", "ms", limits),
            ("search", "ms", limits),
            ("search_worst", "ms", limits),
            ("view_memory", "MB", limits),
            ("view_index", "s", "reading the files with json"),
            ("filter_scan", "ms", "reading the files with json"),
        )
    }
    with tempfile.TemporaryDirectory(prefix="toolwise-bench-view-") as directory:
        run = Path(directory, "run")
        advance(0, f"writing {episodes:,} trajectories")
        write_run(run, episodes)
        for number in range(1, rounds + 1):
            scan_s = _scan(run)
            with _server(run, Path(directory, f"cache{number}")) as (client, pid):
                begun = time.monotonic()
                _first_view(client)
                figures["first_view"].add(time.monotonic() - begun, FIRST_VIEW_S)
                _wait(client, episodes)
                figures["view_index"].add(time.monotonic() - begun, scan_s)
                filters = [_times(client, chosen) for chosen in _FILTERS]
                searches = [_times(client, {"q": query}) for query in _SEARCHES]
                for name, times in (("filter", filters), ("search", searches)):
                    every = [one for several in times for one in several]
                    figures[name].add(median(every), FILTER_MS)
                    figures[f"{name}_worst"].add(max(median(several) for several in times), FILTER_MS)
                figures["filter_scan"].add(median([one for several in filters for one in several]), scan_s * 1000)
                figures["view_memory"].add(_peak_megabytes(pid), MEMORY_MB)
            advance(number, f"first view {figures['first_view'].ours[-1]:.2f} s")
    return list(figures.values())


class Client:
    """One connection that is kept."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=120)

    def get(self, path: str, **parameters: str) -> Any:
        """The answer, which must be 200."""
        self._connection.request("GET", f"/api/{path}?{urlencode(parameters)}")
        answer = self._connection.getresponse()
        content = json.loads(answer.read())
        if answer.status != 200:
            raise RuntimeError(f"{path}: {answer.status} {content}")
        return content


@contextmanager
def _server(run: Path, cache: Path) -> Generator[tuple[Client, int]]:
    """`toolwise view` in a process of its own, from when it says its URL."""
    command = [sys.executable, "-m", "toolwise", "view", str(run), "port=0"]
    environment = os.environ | {"XDG_CACHE_HOME": str(cache)}
    root = Path(__file__).parents[1]
    with subprocess.Popen(command, cwd=root, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield Client(process.stdout.readline().split()[-1]), process.pid
        finally:
            process.terminate()


def _first_view(client: Client) -> None:
    """What the page asks for before it shows something: runs, curves, names, the first page of the newest name."""
    (run,) = client.get("runs")["runs"]
    client.get(f"runs/{run['id']}/metrics", names="reward/accuracy,tools/calls_per_episode/mean")
    newest = client.get(f"runs/{run['id']}/names")["names"][-1]["name"]
    if not client.get(f"runs/{run['id']}/episodes", name=newest)["rows"]:
        raise RuntimeError("the first page is empty")


def _wait(client: Client, episodes: int) -> None:
    while True:
        (run,) = client.get("runs")["runs"]
        if run["indexed"]["episodes"] >= episodes:
            return
        time.sleep(0.2)


def _times(client: Client, parameters: dict[str, str]) -> list[float]:
    """Milliseconds from the request for the first page of episodes to the whole answer, once warmed up."""
    times = []
    for _ in range(_REPEATS + 1):
        begun = time.monotonic()
        client.get("runs/run/episodes", **parameters)
        times.append((time.monotonic() - begun) * 1000)
    return times[1:]


def _scan(run: Path) -> float:
    """Seconds that a filter takes without an index: each line is read with the module json."""
    begun, found = time.monotonic(), 0
    for path in sorted((run / "trajectories").glob("*.jsonl")):
        with path.open(encoding="utf-8") as file:
            found += sum("search" in json.loads(line)["abilities"] for line in file)
    return time.monotonic() - begun


def _peak_megabytes(pid: int) -> float:
    """The most memory that a process had resident, in 10⁶ bytes; mapped files count."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError("the kernel does not say the process's peak memory")
