"""The tools of one episode: it finds a call's tool by name, enforces its deadline, and records each call."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any

from PIL import Image

from envs.errors import InfrastructureError, UsageError
from envs.protocols import Call
from envs.tools.outputs import REAL, replaced
from envs.tools.tool import Tool, ToolEpisode
from envs.types import Task, ToolCall, ToolResult, ToolStatus
from sandbox import Pool, SandboxUnavailable

log = logging.getLogger(__name__)

UNKNOWN = "unknown"
"""The recorded name of a tool that does not exist. It is not the name that the model wrote: metrics are named after tools."""


class Toolbox:
    """Runs calls of the given `tools`, and at the end closes what they opened.

    The task's images at full size are what tools work on; the images that tools return are added to them, so that they can be
    searched for. `sandbox` returns the pool. `outputs` says what the model is shown: see `envs.tools.outputs`.
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
        Raises UsageError if a tool returns something other than a ToolResult, SandboxUnavailable if there is no sandbox.
        """
        first, self._calls = self._calls, self._calls + len(calls)
        runs = (self._run(call, first + index) for index, call in enumerate(calls))
        # Each is awaited even if another fails, so that no call outlives its turn.
        ended = await asyncio.gather(*runs, return_exceptions=True)
        for outcome in ended:
            if isinstance(outcome, BaseException):
                raise outcome
            self._images += outcome[1].images
        return [outcome for outcome in ended if not isinstance(outcome, BaseException)]

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
                result = await tool.call(arguments, self._episodes[tool.name])
        except InfrastructureError as error:
            return ToolResult(str(error), status=ToolStatus.FAILURE)
        except (UsageError, SandboxUnavailable):
            raise
        except Exception as error:
            if deadline.expired() and isinstance(error, TimeoutError):
                return ToolResult(f"{tool.call_name} took longer than {tool.timeout_s:g} s.", status=ToolStatus.TIMEOUT)
            log.warning("tool %s: %r", tool.name, error, exc_info=True)
            return ToolResult(f"{type(error).__name__}: {error}", status=ToolStatus.ERROR)
        if not isinstance(result, ToolResult):
            raise UsageError(f"the tool {tool.name} returned a {type(result).__name__}: return a ToolResult")
        return result
