"""Text searches over HTTP: a retrieval server in Search-R1's form, Serper, SerpAPI, SearXNG and Tavily.

A service is a request for one query and a reader of its answer; an answer in another form raises SearchUnavailable. Keys come only
from environment variables.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from envs.errors import SearchUnavailable, UsageError
from envs.search.http import HttpClient, Request
from envs.search.text.contents import title_and_text
from envs.search.types import Passage


class RetrievalServer:
    """A server in the form of Search-R1's `retrieval_server.py`: POST /retrieve with all queries at once.

    A document's `contents` is its title on the first line, in quotes, and then its text; or its text alone.
    """

    def __init__(self, url: str, client: HttpClient) -> None:
        self._url = url if url.rstrip("/").endswith("/retrieve") else f"{url.rstrip('/')}/retrieve"
        self._client = client

    async def search(self, queries: Sequence[str], top_k: int) -> list[list[Passage]]:
        """See `TextSearch`."""
        payload = {"queries": list(queries), "topk": top_k, "return_scores": True}
        body = await self._client.json(Request("POST", self._url, json=payload))
        try:
            results = [[_from_contents(item.get("document", item)) for item in items[:top_k]] for items in body["result"]]
        except (KeyError, TypeError, AttributeError) as error:
            raise SearchUnavailable(f"the retrieval server answers in another form ({error!r})") from None
        if len(results) != len(queries):
            raise SearchUnavailable(f"the retrieval server answers {len(results)} of {len(queries)} queries")
        return results


@dataclass(frozen=True, slots=True)
class Service:
    """One web search: the variable of its key, the request for a query, and the fields of its answer that hold the results."""

    key: str | None
    request: Callable[[str, int, str], Request]
    results: str
    title: str
    link: str
    snippet: str


SERVICES: Mapping[str, Service] = {
    "serper": Service(
        "SERPER_API_KEY",
        lambda query, top_k, key: Request(
            "POST", "https://google.serper.dev/search", headers={"X-API-KEY": key}, json={"q": query, "num": top_k}
        ),
        "organic",
        "title",
        "link",
        "snippet",
    ),
    "serpapi": Service(
        "SERPAPI_API_KEY",
        lambda query, top_k, key: Request(
            "GET", "https://serpapi.com/search.json", params={"engine": "google", "q": query, "num": top_k, "api_key": key}
        ),
        "organic_results",
        "title",
        "link",
        "snippet",
    ),
    "searxng": Service(
        None,
        lambda query, top_k, key: Request("GET", "http://localhost:8080/search", params={"q": query, "format": "json"}),
        "results",
        "title",
        "url",
        "content",
    ),
    "tavily": Service(
        "TAVILY_API_KEY",
        lambda query, top_k, key: Request(
            "POST",
            "https://api.tavily.com/search",
            headers={"Authorization": f"Bearer {key}"},
            json={"query": query, "max_results": top_k},
        ),
        "results",
        "title",
        "url",
        "content",
    ),
}


class WebSearch:
    """One of `SERVICES`, with one request for each query. `url` replaces the service's own.

    Raises UsageError if its key is missing.
    """

    def __init__(self, name: str, client: HttpClient, url: str | None = None) -> None:
        self._name, self._service, self._client, self._url = name, SERVICES[name], client, url
        self._key = os.environ.get(self._service.key, "") if self._service.key else ""
        if self._service.key and not self._key:
            raise UsageError(f"the search {name} needs a key: set {self._service.key} in the environment")

    async def search(self, queries: Sequence[str], top_k: int) -> list[list[Passage]]:
        """See `TextSearch`."""
        return await asyncio.gather(*(self._one(query, top_k) for query in queries))

    async def _one(self, query: str, top_k: int) -> list[Passage]:
        request = self._service.request(query, top_k, self._key)
        if self._url is not None:
            request = Request(request.method, self._url, request.params, request.headers, request.json)
        body = await self._client.json(request)
        service = self._service
        items = body.get(service.results, []) if isinstance(body, Mapping) else None
        if not isinstance(items, list) or not all(isinstance(item, Mapping) for item in items):
            raise SearchUnavailable(f"{self._name} answers in another form")
        fields = (service.title, service.link, service.snippet)
        return [Passage(*(_text(item.get(name)) for name in fields)) for item in items[:top_k]]


def _from_contents(document: Mapping[str, Any]) -> Passage:
    title, text = title_and_text(str(document["contents"]))
    return Passage(_text(document.get("title")) or title, _text(document.get("source") or document.get("id")), text)


def _text(value: Any) -> str:
    return "" if value is None else str(value)
