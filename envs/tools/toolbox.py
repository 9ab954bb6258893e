"""The tools of one episode: which the model may call, by which name, and the record of each call."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from PIL import Image

from envs.protocol import Call, Code
from envs.search.types import ImageSearch, TextSearch
from envs.tools.code import CodeTool
from envs.tools.image_search import ImageSearchTool
from envs.tools.outputs import REAL, replaced
from envs.tools.text_search import TextSearchTool
from envs.types import Task, Tool, ToolCall, ToolResult, ToolStatus
from sandbox import Pool

TOOLS = ("code", "text_search", "image_search")
"""Every tool there is, as metrics and the option `tools` name them."""

NAMES = {"search": "text_search", "text_search": "text_search", "image_search": "image_search"}
"""What a model writes as the name in a tool call."""


class Toolbox:
    """Opens each of the `enabled` tools at its first call and closes them all in the end.

    The task's images at full size are what tools work on; what the model is shown of the tools' is added to them, so that it can be
    searched for. `pool` gives the sandbox. A search that takes longer than `search_s` seconds is a TIMEOUT. `outputs` says what the
    model is shown: see `envs.tools.outputs`.
    """

    def __init__(
        self,
        enabled: Sequence[str],
        task: Task,
        *,
        pool: Callable[[], Awaitable[Pool]],
        text_search: TextSearch | None = None,
        image_search: ImageSearch | None = None,
        top_k: int = 5,
        search_s: float = 30.0,
        outputs: str = REAL,
    ) -> None:
        self._enabled = tuple(enabled)
        self._task = task
        self._seen: list[Image.Image] = list(task.images)
        self._outputs, self._calls = outputs, 0
        self._pool = pool
        self._text_search, self._image_search = text_search, image_search
        self._top_k, self._search_s = top_k, search_s
        self._open: dict[str, Tool] = {}

    async def act(self, action: Code | Call) -> tuple[ToolCall, ToolResult]:
        """Run the action. A tool that is not there is an ERROR that names those that are."""
        started = time.monotonic()
        if isinstance(action, Code):
            name, arguments, told = "code", {"source": action.source}, action.source
        else:
            name, arguments, told = NAMES.get(action.name, ""), action.arguments, f"{action.name} {action.arguments}"
        if name in self._enabled:
            result = replaced(self._outputs, await self._call(name, arguments), name, self._task.task_id, self._calls)
            self._calls += 1
            self._seen += result.images
        else:
            # Not the model's own word for it: metrics are named after tools.
            name, asked = "unknown", "code" if isinstance(action, Code) else action.name
            available = ", ".join(self._enabled) or "none"
            result = ToolResult(f"There is no tool {asked!r}. Available: {available}.", status=ToolStatus.ERROR)
        return ToolCall(name, result.status, time.monotonic() - started, told), result

    async def close(self) -> None:
        """Close what was opened."""
        while self._open:
            await self._open.popitem()[1].close()

    async def _call(self, name: str, arguments: Mapping[str, Any]) -> ToolResult:
        if name not in self._open:
            self._open[name] = await self._make(name)
        if name == "code":  # the session has a deadline of its own, which does not count the wait for a free one
            return await self._open[name].call(arguments)
        try:
            async with asyncio.timeout(self._search_s) as deadline:
                return await self._open[name].call(arguments)
        except TimeoutError:
            if not deadline.expired():
                raise
            return ToolResult(f"The search took longer than {self._search_s:g} s.", status=ToolStatus.TIMEOUT)

    async def _make(self, name: str) -> Tool:
        if name == "text_search" and self._text_search is not None:
            return TextSearchTool(self._text_search, self._top_k)
        if name == "image_search" and self._image_search is not None:
            return ImageSearchTool(self._image_search, self._top_k, self._seen)
        return CodeTool(await self._pool(), self._task.images)
