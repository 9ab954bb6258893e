"""A page of the browser as the tests use it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

WIDE, NARROW = {"width": 1280, "height": 800}, {"width": 375, "height": 700}
MISSING = "0" * 64
_GO = "hash => new Promise(done => { addEventListener('hashchange', () => done(), {once: true}); location.hash = hash; })"

_AXE = """async rules => {
    const chosen = rules.length ? {runOnly: {type: 'rule', values: rules}} : {};
    const {violations} = await axe.run({exclude: [['.plot svg']]}, {...chosen, resultTypes: ['violations']});
    return violations.map(one => [one.id, ...one.nodes.slice(0, 3).map(node => node.html.slice(0, 200))]);
}"""
_HURRY = """() => {
    for (const name of ['setTimeout', 'setInterval']) {
        const set = window[name];
        window[name] = (call, wait, ...rest) => set(call, wait / 5, ...rest);
    }
}"""


def until(page: Any, true: str, arg: Any = None) -> None:
    """Waits until the JavaScript `true` is. Playwright's own `wait_for_function` evaluates text within the page from its second
    try on, which the page's content policy forbids."""
    deadline = time.monotonic() + 30
    while not page.evaluate(true, arg):
        assert time.monotonic() < deadline, true
        page.wait_for_timeout(20)


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

    def violations(self, *rules: str) -> list[Any]:
        """What axe finds wrong with the view: by all of its rules, or by these."""
        axe = pytest.importorskip("axe_playwright_python.base", reason="axe-playwright-python is not installed")
        if not self.page.evaluate("'axe' in window"):
            self.page.evaluate(axe.AXE_SCRIPT)
        return self.page.evaluate(_AXE, list(rules))

    def hurry(self) -> None:
        """Has what the page does now and then done five times as often, until another document is opened."""
        self.page.evaluate(_HURRY)

    def open(self, address: str) -> Any:
        """Opens a view and waits until it stands; returns the page."""
        if not self.page.url.startswith(self.url) or self.address == address:
            # A view that stands already keeps what a link does not tell: it is left first.
            self.page.goto("about:blank")
            self.page.goto(f"{self.url}/#{address}")
        else:
            self.page.evaluate(_GO, f"#{address}")
        self.page.locator("main:not([aria-busy], :has([aria-busy])) h1").wait_for()
        return self.page

    @property
    def address(self) -> str:
        """The view that is shown, as a link restores it."""
        return self.page.url.partition("#")[2]
