"""The tools of one episode: which the model may call, by which name, under which deadline, and the record of each call."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any

from PIL import Image

from envs.errors import InfrastructureError
from envs.protocols import Call
from envs.tools.outputs import REAL, replaced
from envs.tools.tool import Tool, ToolEpisode
from envs.types import Task, ToolCall, ToolResult, ToolStatus
from sandbox import Pool

UNKNOWN = "unknown"
"""What a call of a tool that does not exist is recorded as. Not the model's own word for it: metrics are named after tools."""


class Toolbox:
    """Runs calls of the given `tools` and closes what they opened in the end.

    The task's images at full size are what tools work on; the images that tools return are added to them, so that they can be
    searched for. `sandbox` gives the pool. `outputs` says what the model is shown: see `envs.tools.outputs`.
    """

    def __init__(self, tools: Sequence[Tool], task: Task, *, sandbox: Callable[[], Awaitable[Pool]], outputs: str = REAL) -> None:
        self._tools = tools
        self._by_call_name = {tool.call_name: tool for tool in tools} | {tool.name: tool for tool in tools}
        self._task, self._outputs, self._calls = task, outputs, 0
        self._images: list[Image.Image] = list(task.images)
        self._stack = AsyncExitStack()
        self._episodes = {tool.name: ToolEpisode(task, self._images, sandbox, self._stack) for tool in tools}

    async def run(self, calls: Sequence[Call]) -> list[tuple[ToolCall, ToolResult]]:
        """The records and results of the calls of one turn, which run concurrently, in their order.

        A tool that does not exist is an ERROR that names those that do. A FAILURE means that the episode is to be run again.
        """
        first, self._calls = self._calls, self._calls + len(calls)
        ended = await asyncio.gather(*(self._run(call, first + place) for place, call in enumerate(calls)))
        for _, result in ended:
            self._images += result.images
        return list(ended)

    async def close(self) -> None:
        """Close what the tools opened."""
        await self._stack.aclose()

    async def _run(self, call: Call, number: int) -> tuple[ToolCall, ToolResult]:
        started = time.monotonic()
        tool = self._by_call_name.get(call.name)
        if tool is None:
            available = ", ".join(tool.call_name for tool in self._tools) or "none"
            name, result = UNKNOWN, ToolResult(f"There is no tool {call.name!r}. Available: {available}.", status=ToolStatus.ERROR)
        else:
            name = tool.name
            result = replaced(self._outputs, await self._call(tool, call.arguments), name, self._task.task_id, number)
        return ToolCall(name, result.status, time.monotonic() - started, f"{call.name} {call.arguments}"), result

    async def _call(self, tool: Tool, arguments: Mapping[str, Any]) -> ToolResult:
        try:
            async with asyncio.timeout(tool.timeout_s) as deadline:
                return await tool.call(arguments, self._episodes[tool.name])
        except TimeoutError:
            if not deadline.expired():
                raise
            return ToolResult(f"{tool.call_name} took longer than {tool.timeout_s:g} s.", status=ToolStatus.TIMEOUT)
        except InfrastructureError as error:
            return ToolResult(str(error), status=ToolStatus.FAILURE)
