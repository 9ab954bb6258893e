"""The text search tool: `{"name": "search", "arguments": {"query": "…"}}`, or `"queries": ["…", …]` for several at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from envs.errors import SearchUnavailable
from envs.search.types import Passage, TextSearch
from envs.tools.tool import Tool, ToolEpisode
from envs.types import ToolResult, ToolStatus

MAX_QUERIES = 8
_REMEDY = 'write {"name": "search", "arguments": {"query": "…"}}'


class TextSearchTool(Tool):
    """Searches texts: numbered passages with title, source and snippet, the best first, at most `top_k` for each query."""

    name = "text_search"
    description = "Search a collection of texts. Returns numbered passages, the best first."
    parameters = {  # noqa: RUF012  nobody changes it
        "type": "object",
        "properties": {
            "query": {"type": "string", "description": "What to search for."},
            "queries": {"type": "array", "items": {"type": "string"}, "description": "Several queries at once, in place of one."},
        },
    }
    instructions = 'To search texts: <tool_call>{"name": "search", "arguments": {"query": "…"}}</tool_call>.'
    ignores_others = True

    def __init__(self, backend: TextSearch, top_k: int = 5, timeout_s: float = 30.0) -> None:
        self._backend, self._top_k, self.timeout_s = backend, top_k, timeout_s

    @property
    def call_name(self) -> str:
        return "search"

    async def call(self, arguments: Mapping[str, Any], episode: ToolEpisode) -> ToolResult:
        given = arguments.get("queries", arguments.get("query"))
        queries = [given] if isinstance(given, str) else given
        if not isinstance(queries, list) or not queries or not all(isinstance(query, str) and query.strip() for query in queries):
            return ToolResult(f"The search needs a query: {_REMEDY}", status=ToolStatus.ERROR)
        if len(queries) > MAX_QUERIES:
            return ToolResult(f"At most {MAX_QUERIES} queries in one call, not {len(queries)}.", status=ToolStatus.ERROR)
        try:
            results = await self._backend.search(queries, self._top_k)
        except SearchUnavailable as error:
            return ToolResult(f"The search is not available: {error}", status=ToolStatus.UNAVAILABLE)
        if len(queries) == 1:
            return ToolResult(numbered(results[0]))
        return ToolResult("\n".join(f"{query}:\n{numbered(passages)}" for query, passages in zip(queries, results, strict=True)))


def numbered(passages: Sequence[Passage]) -> str:
    """The text that the model is shown for passages."""
    return "\n".join(_line(number, passage) for number, passage in enumerate(passages, 1)) or "Nothing was found."


def _line(number: int, passage: Passage) -> str:
    source = f" ({passage.source})" if passage.source else ""
    return f"{number}. {passage.title}{source}\n{passage.snippet}"
