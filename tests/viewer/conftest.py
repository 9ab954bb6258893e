"""Runs that the viewer's tests are shown, and servers that show them."""

import json

import pytest
from shown import Shown, images_of

from rollout.store import Store
from rollout.types import Episode


@pytest.fixture
def write_run(tmp_path):
    """Makes a run directory of these names: `write_run("demo", rl_000000=[trajectory, …])`."""

    def write(name, /, **names):
        run = tmp_path / "runs" / name
        run.mkdir(parents=True, exist_ok=True)
        (run / "config.yaml").write_text("policy: starter\ntasks: toolwise/Microworld-v0\nstages: [rl]\nrl: {steps: 2}\n")
        for one, trajectories in names.items():
            Store(run).write(one, [Episode((trajectory,), images_of(trajectory)) for trajectory in trajectories])
        return run

    return write


@pytest.fixture
def show(tmp_path):
    """Starts servers: `show(run, …)`."""
    started = []

    def start(*paths, **options):
        started.append(Shown(*paths, **{"cache": tmp_path / "cache"} | options))
        return started[-1]

    yield start
    for shown in started:
        shown.viewer.indexer.close()


@pytest.fixture
def append():
    """Adds text to a trajectory file of a run."""

    def add(run, file, text):
        path = run / "trajectories" / file
        path.parent.mkdir(exist_ok=True)
        with path.open("a", encoding="utf-8") as opened:
            opened.write(text if isinstance(text, str) else json.dumps(text) + "\n")

    return add
