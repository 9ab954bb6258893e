"""A page of the browser as the tests use it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

WIDE, NARROW = {"width": 1280, "height": 800}, {"width": 375, "height": 700}
MISSING = "0" * 64
_GO = "hash => new Promise(done => { addEventListener('hashchange', () => done(), {once: true}); location.hash = hash; })"


class Looked:
    """A page of the browser, at one server, with what it asked for and complained of."""

    def __init__(self, page: Any, url: str, runs: Path) -> None:
        self.page, self.url, self.runs = page, url, runs
        self.requests: list[str] = []
        self.complaints: list[str] = []
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", self._said)

    def _said(self, message: Any) -> None:
        # The browser itself says so of an image that is not there.
        if message.type in ("error", "warning") and MISSING not in message.location.get("url", ""):
            self.complaints.append(message.text)

    def open(self, address: str) -> Any:
        """Opens a view and waits until it stands; returns the page."""
        if not self.page.url.startswith(self.url) or self.address == address:
            # A view that stands already keeps what a link does not tell: it is left first.
            self.page.goto("about:blank")
            self.page.goto(f"{self.url}/#{address}")
        else:
            self.page.evaluate(_GO, f"#{address}")
        self.page.locator("main:not([aria-busy]) h1").wait_for()
        return self.page

    @property
    def address(self) -> str:
        """The view that is shown, as a link restores it."""
        return self.page.url.partition("#")[2]
