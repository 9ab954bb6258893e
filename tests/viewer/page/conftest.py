"""One browser and one server for the tests of the page. They are skipped if there is no Chromium or no Playwright."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from page_looks import WIDE, Looked
from page_runs import HOSTILE, add_ablation, add_hostile, add_learned, make_run

CHROMIUM = shutil.which("chromium")


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`alpha` has four steps, an ablation, hostile episodes and what was learned of a step; `beta` two steps without metrics by
    need; `growing` is trained; one has a hostile name."""
    directory = tmp_path_factory.mktemp("runs")
    add_ablation(make_run(directory / "alpha", 4))
    add_hostile(directory / "alpha")
    add_learned(directory / "alpha", 3)
    make_run(directory / "beta", 2, by_need=False)
    make_run(directory / HOSTILE.replace("/", ""), 1)
    make_run(directory / "growing", 2, finished=False)
    return directory


@pytest.fixture(scope="session")
def address(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of these runs, in a thread."""
    import uvicorn

    from viewer.app import Viewer, application
    from viewer.runs import find_runs
    from viewer.serve import listening

    viewer = Viewer(lambda: find_runs([str(runs)]), tmp_path_factory.mktemp("index"))
    listener = listening("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(application(viewer), http="h11", ws="none", log_level="critical", access_log=False))
    thread = threading.Thread(target=server.run, args=([listener],))
    viewer.indexer.start()
    thread.start()
    deadline = time.monotonic() + 60
    while not all(0 < (read := run.index.describe())["of"] == read["files"] for run in viewer.runs.values()):
        assert time.monotonic() < deadline, "the runs were not indexed"
        time.sleep(0.02)
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join()
    viewer.indexer.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Not for the whole session: while Playwright runs no asynchronous test can, and such tests may follow in this process."""
    sync = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no chromium: apt-get install chromium")
    with sync.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def one_page(browser: Any, address: str, runs: Path) -> Iterator[Looked]:
    context = browser.new_context(viewport=WIDE, color_scheme="light", reduced_motion="reduce")
    context.set_default_timeout(60_000)
    yield Looked(context.new_page(), address, runs)
    context.close()


@pytest.fixture
def look(one_page: Looked) -> Iterator[Looked]:
    """The page, wide and light. Whatever it shows, it complains of nothing and asks only its own server."""
    one_page.page.set_viewport_size(WIDE)
    one_page.page.emulate_media(color_scheme="light", reduced_motion="reduce")
    one_page.requests.clear()
    one_page.complaints.clear()
    yield one_page
    assert one_page.complaints == []
    foreign = [url for url in one_page.requests if not url.startswith((f"{one_page.url}/", "about:blank"))]
    assert foreign == []
