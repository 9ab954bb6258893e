"""Makes the pictures of docs/viewer.md from a run, in docs/images: Chromium shows the page, and each view is photographed.

    .venv/bin/python docs/screenshots.py runs/study_0 [runs/study_1]

It needs Chromium (`apt-get install chromium`) and the package playwright. Each picture is reduced to 128 colours. A second run is
compared with the first.
"""

from __future__ import annotations

import io
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from PIL import Image

IMAGES = Path(__file__).parent / "images"
WIDE, TALL, NARROW = (1200, 800), (1200, 1200), (375, 700)
LARGEST = 150_000


@contextmanager
def served(paths: list[str]) -> Iterator[tuple[str, Any]]:
    """The URL of a server of these runs, and what it serves, once all their files are read."""
    import uvicorn

    from viewer.app import Viewer, application
    from viewer.runs import find_runs
    from viewer.serve import listening

    viewer = Viewer(lambda: find_runs(paths), Path(tempfile.mkdtemp()))
    listener = listening("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(application(viewer), http="h11", ws="none", log_level="critical", access_log=False))
    thread = threading.Thread(target=server.run, args=([listener],))
    viewer.indexer.start()
    thread.start()
    try:
        while not all(0 < (read := run.index.describe())["of"] == read["files"] for run in viewer.runs.values()):
            time.sleep(0.2)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", viewer
    finally:
        server.should_exit = True
        thread.join()
        viewer.indexer.close()


def telling(page: Any, url: str, run: str) -> tuple[str, str]:
    """A step in the middle of RL, and of its groups the one whose episodes differ most in reward."""
    names = page.request.get(f"{url}/api/runs/{run}/names").json()["names"]
    steps = [one["name"] for one in names if one["stage"] == "rl" and one["episodes"]]
    name = (steps or [one["name"] for one in names])[len(steps) // 4]
    groups = page.request.get(f"{url}/api/runs/{run}/tasks?name={quote(name)}&need=needed&ability=perception").json()["rows"]
    groups = groups or page.request.get(f"{url}/api/runs/{run}/tasks?name={quote(name)}").json()["rows"]
    return name, max(groups, key=lambda one: one["reward"]["std"] or 0)["group_id"]


def photographed(page: Any, name: str) -> None:
    """Saves what is shown as docs/images/viewer_NAME.png."""
    with Image.open(io.BytesIO(page.screenshot())) as shot:
        path = IMAGES / f"viewer_{name}.png"
        shot.convert("RGB").quantize(128).save(path, optimize=True)
    if path.stat().st_size > LARGEST:
        raise SystemExit(f"{path} has {path.stat().st_size} bytes, more than {LARGEST}")
    print(path)


def main(paths: list[str]) -> None:
    """Photographs the views."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium")
    if not paths or chromium is None:
        raise SystemExit(__doc__ if chromium else "there is no chromium: apt-get install chromium")
    with served(paths) as (url, viewer), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDE[0], "height": WIDE[1]}, color_scheme="light", reduced_motion="reduce")
        ids = [quote(run) for run in viewer.runs]
        run = ids[0]
        name, group = telling(page, url, run)
        address = f"/runs/{run}/group/{quote(group, safe='')}?name={name}"
        episode = page.request.get(f"{url}/api/runs/{run}/groups/{quote(group)}?name={name}").json()["episodes"][0]["episode_id"]
        tokens = f"/runs/{run}/tokens/{quote(episode, safe='')}?name={name}&colour=logprob"
        views = {
            "run": (f"/runs/{run}?smooth=0.8", TALL, "light"),
            "tasks": (f"/runs/{run}/tasks?name={name}&need=needed&sort=reward", WIDE, "light"),
            "group": (address, TALL, "light"),
            "tokens": (tokens, WIDE, "dark"),
            "narrow": (address, NARROW, "dark"),
        }
        if len(ids) > 1:
            views["compare"] = (f"/compare?a={ids[0]}&b={ids[1]}&smooth=0.8", TALL, "light")
        for view, (place, (width, height), scheme) in views.items():
            page.set_viewport_size({"width": width, "height": height})
            page.emulate_media(color_scheme=scheme)
            page.goto("about:blank")
            page.goto(f"{url}/#{place}", wait_until="networkidle")
            page.locator("main:not([aria-busy]) h1").wait_for()
            photographed(page, view)
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1:])
