"""Requests to a search service: each has a deadline, is retried if that can help, and fails with one kind of error."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from envs.errors import SearchUnavailable
from envs.runtime.deadlines import waiting
from envs.runtime.loops import PerLoop

_MOST_BYTES = 8 << 20
_LONGEST_WAIT_S = 20.0
_BUSY = (408, 425, 429)


@dataclass(frozen=True, slots=True)
class Request:
    """One request to a service. `headers` and `params` may hold a key: they never appear in an error."""

    method: str
    url: str
    params: Mapping[str, Any] | None = None
    headers: Mapping[str, str] | None = None
    json: Any = None


class _TryAgain(Exception):
    def __init__(self, reason: str, after_s: float | None = None) -> None:
        super().__init__(reason)
        self.after_s = after_s


class HttpClient:
    """A client for any event loop. Each attempt has `timeout_s` seconds; attempts back off exponentially, with jitter."""

    def __init__(self, timeout_s: float = 10.0, attempts: int = 4) -> None:
        self._attempts = attempts
        self._clients = PerLoop(lambda: httpx.AsyncClient(timeout=timeout_s))

    async def json(self, request: Request) -> Any:
        """The parsed JSON of the answer. Raises SearchUnavailable, whose message names the host and its failure, and no key."""
        host = httpx.URL(request.url).host
        retrying = AsyncRetrying(
            stop=stop_after_attempt(self._attempts), wait=_wait, retry=retry_if_exception_type(_TryAgain), reraise=True
        )
        try:
            with waiting():  # the tool's own deadline bounds it
                return await retrying(self._once, request)
        except _TryAgain as error:
            raise SearchUnavailable(f"{host} {error}, {self._attempts} times") from None

    async def content(self, url: str) -> bytes:
        """The bytes behind a link, at most `_MOST_BYTES`, requested once. Raises SearchUnavailable if that fails."""
        try:
            return await self._body(Request("GET", url))
        except _TryAgain as error:
            raise SearchUnavailable(f"a picture's host {error}") from None

    async def _once(self, request: Request) -> Any:
        body = await self._body(request)
        try:
            return json.loads(body)
        except ValueError:
            raise _TryAgain("answers something that is not JSON") from None

    async def _body(self, request: Request) -> bytes:
        try:
            async with self._clients.get().stream(
                request.method, request.url, params=request.params, headers=request.headers, json=request.json
            ) as response:
                if response.status_code in _BUSY or response.status_code >= 500:
                    raise _TryAgain(f"answers with status {response.status_code}", _seconds(response.headers.get("Retry-After")))
                if response.status_code >= 400:
                    raise SearchUnavailable(f"{httpx.URL(request.url).host} refuses with status {response.status_code}")
                body = b""
                async for chunk in response.aiter_bytes():
                    body += chunk
                    if len(body) > _MOST_BYTES:
                        raise SearchUnavailable(f"{httpx.URL(request.url).host} answers more than {_MOST_BYTES} bytes")
                return body
        except httpx.TimeoutException:
            raise _TryAgain("does not answer in time") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise _TryAgain(f"fails ({type(error).__name__})") from None


_backoff = wait_random_exponential(multiplier=0.2, max=5.0)


def _wait(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome is not None else None
    after_s = error.after_s if isinstance(error, _TryAgain) else None
    return _backoff(state) if after_s is None else min(after_s, _LONGEST_WAIT_S)


def _seconds(header: str | None) -> float | None:
    return float(header) if header is not None and header.isdecimal() else None
