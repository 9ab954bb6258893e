"""The text search tool: `{"name": "search", "arguments": {"query": "…"}}`, or `"queries": ["…", …]` for several at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from envs.errors import SearchUnavailable
from envs.search.types import Passage, TextSearch
from envs.types import ToolResult, ToolStatus

MAX_QUERIES = 8
_REMEDY = 'write {"name": "search", "arguments": {"query": "…"}}'


class TextSearchTool:
    """Numbered passages with title, source and snippet, the best first."""

    def __init__(self, backend: TextSearch, top_k: int) -> None:
        self._backend, self._top_k = backend, top_k

    async def call(self, arguments: Mapping[str, Any]) -> ToolResult:
        asked = arguments.get("queries", arguments.get("query"))
        queries = [asked] if isinstance(asked, str) else asked
        if not isinstance(queries, list) or not queries or not all(isinstance(query, str) and query.strip() for query in queries):
            return ToolResult(f"The search needs a query: {_REMEDY}", status=ToolStatus.ERROR)
        if len(queries) > MAX_QUERIES:
            return ToolResult(f"At most {MAX_QUERIES} queries in one call, not {len(queries)}.", status=ToolStatus.ERROR)
        try:
            found = await self._backend.search(queries, self._top_k)
        except SearchUnavailable as error:
            return ToolResult(f"The search is not available: {error}", status=ToolStatus.UNAVAILABLE)
        if len(queries) == 1:
            return ToolResult(numbered(found[0]))
        return ToolResult("\n".join(f"{query}:\n{numbered(passages)}" for query, passages in zip(queries, found, strict=True)))

    async def close(self) -> None:
        """Nothing is held: the backend serves all episodes."""


def numbered(passages: Sequence[Passage]) -> str:
    """What the model is shown of passages."""
    return "\n".join(_line(number, passage) for number, passage in enumerate(passages, 1)) or "Nothing was found."


def _line(number: int, passage: Passage) -> str:
    source = f" ({passage.source})" if passage.source else ""
    return f"{number}. {passage.title}{source}\n{passage.snippet}"
