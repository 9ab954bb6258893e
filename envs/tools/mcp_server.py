"""Tools of MCP servers: `{"mcp": {"command": ["python", "server.py"]}}` or `{"mcp": {"url": "http://…/mcp"}}`.

Only this module imports `mcp`, and at the first use: the import takes half a second.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import logging
import os
import re
import shlex
from collections.abc import AsyncIterator, Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TextIO

from PIL import Image
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import to_json

from envs.errors import InfrastructureError, UsageError
from envs.tools.tool import Tool, ToolEpisode
from envs.types import ToolResult, ToolStatus

if TYPE_CHECKING:
    import mcp

log = logging.getLogger(__name__)

ATTEMPTS = 3
BACKOFF_S = 0.5
"""A server that has worked is started again up to `ATTEMPTS` times; the pause doubles from `BACKOFF_S`."""
MAX_PIXELS = 64_000_000
_MAX_EVENT_BYTES = 1 << 28
_STDERR_BYTES = 1 << 12
_GOODBYE_S = 2.0

_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Texts = Annotated[tuple[str, ...], Field(min_length=1)]


@dataclass(frozen=True, slots=True)
class McpSettings:
    """What stands under `mcp`: one of `command` and `url`, and what goes with it.

    `command` is a program with its arguments. It is started in the folder `cwd`, speaks MCP over its standard input and output, and
    inherits PATH, HOME, LOGNAME, SHELL, TERM and USER; `env` adds to them. `url` is the endpoint of a running server (Streamable
    HTTP), to which `headers` are sent. `tools` names the tools to offer, by default all. A call ends after `timeout_s` seconds; a
    start, with the greeting and the list of tools, after `start_s` seconds. `per_episode` gives each episode a connection of its own.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", coerce_numbers_to_str=True)

    command: _Texts | None = None
    url: Annotated[str, Field(pattern="^https?://.")] | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout_s: _Positive = 30.0
    start_s: _Positive = 30.0
    tools: _Texts | None = None
    per_episode: bool = False

    @classmethod
    def read(cls, given: Any) -> McpSettings:
        """The settings that a user wrote. Raises UsageError, in one line."""
        try:
            settings = TypeAdapter(cls).validate_python(given)
        except ValidationError as error:
            wrong = error.errors()[0]
            name = ".".join(map(str, ("mcp", *wrong["loc"])))
            if wrong["type"] == "unexpected_keyword_argument":
                raise UsageError(f"there is no {name}: write some of {', '.join(cls.__dataclass_fields__)}") from None
            raise UsageError(f"{name} is {wrong['input']!r}: {wrong['msg'].lower()}, {_REMEDY}") from None
        if (settings.command is None) == (settings.url is None):
            raise UsageError(f"mcp has {'neither command nor' if settings.url is None else 'both command and'} url: {_REMEDY}")
        foreign = ("headers",) if settings.url is None else ("env", "cwd")
        for name in foreign:
            if getattr(settings, name):
                owner = "url" if settings.url is None else "command"
                raise UsageError(f"mcp has {name}, which goes with {owner}: leave {name} away, or write {owner}")
        return settings

    @property
    def label(self) -> str:
        """What messages call the server."""
        return self.url or shlex.join(self.command or ())


_REMEDY = "write {mcp: {command: [python, server.py]}} or {mcp: {url: http://…}}"


class McpTool(Tool):
    """One tool of a server. Metrics know it by a name in which each character other than `A-Za-z0-9_-` has become `_`."""

    def __init__(self, server: McpServer, listed: mcp.Tool) -> None:
        self._server, self._listed_name = server, listed.name
        self.name = re.sub(r"[^A-Za-z0-9_-]", "_", listed.name)
        self.description = listed.description or ""
        self.parameters = json.loads(json.dumps(listed.input_schema))
        self.timeout_s = server.settings.timeout_s

    @property
    def call_name(self) -> str:
        return self._listed_name

    async def call(self, arguments: Mapping[str, Any], episode: ToolEpisode) -> ToolResult:
        return await self._server.call(self._listed_name, arguments, episode)


class McpServer:
    """A server whose tools any number of episodes call.

    It has one connection for each event loop, or for each episode if the settings say so, which is opened at first use and closed
    with its loop or its episode. One that ends by itself is opened again when it is next needed; `restarts` counts how often.
    """

    _opened: ClassVar[dict[str, McpServer]] = {}

    @classmethod
    def open(cls, settings: Mapping[str, Any]) -> McpServer:
        """The server of these settings in this process. It is not started yet. Raises UsageError for wrong settings."""
        read = McpSettings.read(settings)
        return cls._opened.setdefault(json.dumps(asdict(read), sort_keys=True), cls(read))

    def __init__(self, settings: McpSettings) -> None:
        self.settings = settings
        self.restarts = 0
        self._tools: list[Tool] | None = None
        # By the event loop or by the episode's stack. One that ended by itself stays until another replaces it.
        self._connections: dict[Hashable, _Connection] = {}

    async def tools(self) -> list[Tool]:
        """The tools, as they were first listed; the server is started if it does not run.

        Raises UsageError if it cannot be started for the first time, and InfrastructureError if it cannot be started again.
        """
        loop = asyncio.get_running_loop()
        if self._tools is None or not self.settings.per_episode:
            connection = await self._connection(loop)
            if self._tools is None:
                self._tools = self._offered(connection.listed)
            if self.settings.per_episode:
                await self._close(loop)
        return list(self._tools)

    async def call(self, name: str, arguments: Mapping[str, Any], episode: ToolEpisode) -> ToolResult:
        """Call a tool by the name that the server gave it. Raises InfrastructureError if the server cannot be started again."""
        try:
            # What cannot be sent would end the connection, for everybody. The nesting is that of the message.
            to_json({"params": {"arguments": {"": arguments}}})
        except ValueError as error:
            return ToolResult(f"The arguments cannot be sent: {_line(error)}", status=ToolStatus.ERROR)
        key = self._key(episode)
        try:
            # A slow start is not the model's doing, so it must not become the TIMEOUT that the toolbox would make of it.
            async with asyncio.timeout(0.8 * self.settings.timeout_s):
                connection = await self._connection(key)
        except TimeoutError:
            return ToolResult(f"{name} is not available: its server has not started yet.", status=ToolStatus.UNAVAILABLE)
        return await connection.call(name, arguments)

    async def close(self) -> None:
        """Close the connection of the running event loop, and with it the process if there is one."""
        await self._close(asyncio.get_running_loop())

    def _key(self, episode: ToolEpisode) -> Hashable:
        if not self.settings.per_episode:
            return asyncio.get_running_loop()
        if episode.stack not in self._connections:
            episode.stack.push_async_callback(self._close, episode.stack)
        return episode.stack

    async def _connection(self, key: Hashable) -> _Connection:
        connection = self._connections.get(key)
        if connection is None or connection.ended:
            if connection is not None:
                self.restarts += 1
                log.warning("the MCP server %s ended%s: it is started again", self.settings.label, connection.last_words())
            attempts = 1 if self._tools is None else ATTEMPTS
            connection = self._connections[key] = _Connection(self.settings, attempts, lambda: self._connections.pop(key, None))
        if problem := await connection.problem():
            self._connections.pop(key, None)
            raise (UsageError if self._tools is None else InfrastructureError)(problem)
        return connection

    async def _close(self, key: Hashable) -> None:
        if connection := self._connections.pop(key, None):
            await connection.close()

    def _offered(self, listed: Sequence[mcp.Tool]) -> list[Tool]:
        names = [tool.name for tool in listed]
        for name in self.settings.tools or ():
            if name not in names:
                raise UsageError(f"the MCP server {self.settings.label} has no tool {name!r}: write some of {', '.join(names)}")
        return [McpTool(self, tool) for tool in listed if self.settings.tools is None or tool.name in self.settings.tools]


class _Connection:
    """One client. Its context managers are entered and left by one task, as anyio demands; calls run in tasks of their own."""

    def __init__(self, settings: McpSettings, attempts: int, forget: Callable[[], object]) -> None:
        self.listed: list[mcp.Tool] = []
        self._settings, self._attempts = settings, attempts
        self._client: mcp.Client | None = None
        self._started: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._over = asyncio.Event()
        self._stderr = b""
        self._owner = asyncio.create_task(self._own())
        self._owner.add_done_callback(lambda owner: forget() if owner.cancelled() else None)
