"""The tools of one episode: it finds a call's tool by name, enforces its deadline, and records each call."""

from __future__ import annotations

import asyncio
import difflib
import json
import logging
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

from PIL import Image

from envs.errors import InfrastructureError, UsageError
from envs.protocols import Call
from envs.protocols.code_text import python_of
from envs.protocols.json_calls import CODE_NAMES
from envs.tools.outputs import REAL, replaced
from envs.tools.tool import Tool, ToolEpisode
from envs.types import Task, ToolCall, ToolResult, ToolStatus
from sandbox import Pool, SandboxUnavailable

log = logging.getLogger(__name__)

_PREFIX = re.compile(r"\A(?:functions?|tools?|default_api)[.:]|:\d+\Z")  # functions.search, or Kimi's search:0
_CODE = "code"
_SOURCES = ("source", "source_code", "script", "python", "python_code", "program", "snippet", "input", "command", "cmd")
_WRAPPERS = frozenset({"arguments", "parameters", "args", "params", "kwargs", "input"})

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

        A tool that does not exist is an ERROR that names those that do, and the one that is spelt alike. A FAILURE means that the
        episode is to be run again.
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
        tool = self._tool(call.name)
        if tool is None:
            name, result = UNKNOWN, ToolResult(self._no_tool(call.name), status=ToolStatus.ERROR)
        else:
            name = tool.name
            result = replaced(self._outputs, await self._call(tool, call.arguments), name, self._task.task_id, number)
        return ToolCall(name, result.status, time.monotonic() - started, f"{call.name} {call.arguments}"), result

    def _tool(self, name: str) -> Tool | None:
        """The tool that a model means: in any case, with a prefix such as `functions.`, and code by any of its usual names."""
        if name in self._by_call_name:
            return self._by_call_name[name]
        plain = _plain_name(name)
        found = {id(tool): tool for known, tool in self._by_call_name.items() if _plain_name(known) == plain}
        if len(found) == 1:
            return next(iter(found.values()))
        return self._by_call_name.get(_CODE) if plain in CODE_NAMES else None

    def _no_tool(self, name: str) -> str:
        names = [tool.call_name for tool in self._tools]
        close = difflib.get_close_matches(_plain_name(name)[:64], names, 1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        return f"There is no tool {name!r}.{hint} Available: {', '.join(names) or 'none'}."

    async def _call(self, tool: Tool, arguments: Mapping[str, Any]) -> ToolResult:
        arguments = _fitted(tool, arguments)
        known = tool.parameters.get("properties", {})
        others = [name for name in arguments if name not in known] if tool.ignores_others else []
        arguments = {name: value for name, value in arguments.items() if name not in others}
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
        if others:
            note = f"Ignored: {', '.join(others)}. {tool.call_name} takes {', '.join(known)}."
            return replace(result, text=f"{result.text}\n{note}")
        return result


def _plain_name(name: str) -> str:
    return re.sub(r"[\s-]", "_", _PREFIX.sub("", name.strip()).lower())


def _fitted(tool: Tool, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments as the tool's schema has them: taken out of an object of their own, values out of JSON text, code out of an
    argument of another name or out of a fence. What does not fit is left as it is, so that the tool can say what is wrong."""
    properties: Mapping[str, Any] = tool.parameters.get("properties", {})
    fitted = dict(arguments)
    if len(fitted) == 1 and (wrapper := next(iter(fitted))) in _WRAPPERS and wrapper not in properties:
        inner = _from_json(fitted[wrapper]) if isinstance(fitted[wrapper], str) else fitted[wrapper]
        fitted = dict(inner) if isinstance(inner, Mapping) else fitted
    for name, value in fitted.items():
        if isinstance(value, str) and (types := _types(properties.get(name, {}))) and "string" not in types:
            read = _from_json(value)
            fitted[name] = value if isinstance(read, str) else read
    return _as_code(fitted) if tool.name == _CODE and _CODE in properties else fitted


def _as_code(arguments: dict[str, Any]) -> dict[str, Any]:
    texts = [name for name, value in arguments.items() if isinstance(value, str)]
    named = next((name for name in (_CODE, *_SOURCES) if name in texts), texts[0] if len(texts) == 1 == len(arguments) else None)
    if named is None:
        return arguments
    source = arguments.pop(named)
    fenced = python_of(source) if source.lstrip().startswith(("```", "~~~")) else None
    return {_CODE: source if fenced is None else fenced} | arguments


def _types(schema: Any) -> set[str]:
    """The JSON types that a schema allows; none if it does not say."""
    if not isinstance(schema, Mapping):
        return set()
    kinds = schema.get("type", [])
    types = {kinds} if isinstance(kinds, str) else set(kinds)
    return types.union(*(_types(option) for option in schema.get("anyOf", ())))


def _from_json(text: str) -> Any:
    try:
        return json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return text
