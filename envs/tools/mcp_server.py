"""Tools of MCP servers: `{"mcp": {"command": ["python", "server.py"]}}` or `{"mcp": {"url": "http://…/mcp"}}`."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Hashable, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any, ClassVar

from pydantic_core import to_json

from envs.errors import InfrastructureError, UsageError
from envs.tools.mcp_connection import Connection, McpSettings, one_line
from envs.tools.tool import Tool, ToolEpisode
from envs.types import ToolResult, ToolStatus

log = logging.getLogger(__name__)

PAUSES_S = (0.5, 1.0, 0.0)  # after each failed attempt to start a server again


class McpServer:
    """A server whose tools any number of episodes may call.

    It has one connection for each event loop, or for each episode if the settings say so, which is opened at first use and closed
    with its loop or its episode. One that ends by itself is opened again when it is next needed; `restarts` counts how often.
    """

    _opened: ClassVar[dict[str, McpServer]] = {}

    @classmethod
    def open(cls, settings: Mapping[str, Any]) -> McpServer:
        """The server of these settings in this process, not started yet. Raises UsageError for wrong settings."""
        read = McpSettings.read(settings)
        return cls._opened.setdefault(json.dumps(asdict(read), sort_keys=True), cls(read))

    def __init__(self, settings: McpSettings) -> None:
        self.settings = settings
        self.restarts = 0
        self._tools: list[Tool] | None = None
        # By the event loop or the episode's stack. One that ended by itself stays until another replaces it.
        self._connections: dict[Hashable, Connection] = {}

    async def tools(self) -> list[Tool]:
        """The tools, as they were first listed; the server is started if it does not run.

        Raises UsageError if it cannot be started for the first time, and InfrastructureError if it cannot be started again.
        """
        if self._tools is None or not self.settings.per_episode:
            loop = asyncio.get_running_loop()
            listed = {tool.name: tool for tool in (await self._connect(loop)).listed}
            if self._tools is None:
                wanted = self.settings.tools or tuple(listed)
                if missing := [name for name in wanted if name not in listed]:
                    raise UsageError(f"{self.settings.label} has no tool {missing[0]}: write some of {', '.join(listed)}")
                self._tools = [McpTool(self, listed[name]) for name in wanted]
            if self.settings.per_episode:
                await self._close(loop)
        return list(self._tools)

    async def connection(self, episode: ToolEpisode) -> Connection:
        """The connection for a call, opened if need be. Raises what `tools` raises."""
        if not self.settings.per_episode:
            return await self._connect(asyncio.get_running_loop())
        if episode.stack not in self._connections:
            episode.stack.push_async_callback(self._close, episode.stack)
        return await self._connect(episode.stack)

    async def close(self) -> None:
        """Close the connection of the running event loop; its process has ended when this returns."""
        await self._close(asyncio.get_running_loop())

    async def _connect(self, key: Hashable) -> Connection:
        for pause_s in (0.0,) if self._tools is None else PAUSES_S:
            connection = self._connections.get(key)
            if connection is None or connection.ended:
                if connection is not None:
                    self.restarts += 1
                    log.warning("%s ended%s and is started again", self.settings.label, connection.last_words())
                connection = self._connections[key] = Connection(self.settings, partial(self._forget, key))
            if not (problem := await connection.problem()):
                return connection
            self._forget(key, connection)
            await asyncio.sleep(pause_s)
        raise (UsageError if self._tools is None else InfrastructureError)(problem)

    def _forget(self, key: Hashable, connection: Connection) -> None:
        if self._connections.get(key) is connection:
            del self._connections[key]

    async def _close(self, key: Hashable) -> None:
        if connection := self._connections.pop(key, None):
            await connection.close()


class McpTool(Tool):
    """One tool of a server. Its name in metrics has `_` in place of every character but `A-Za-z0-9_-`."""

    def __init__(self, server: McpServer, listed: Any) -> None:
        self._server, self._listed_name = server, listed.name
        self.name = re.sub(r"[^A-Za-z0-9_-]", "_", listed.name)
        self.description = listed.description or ""
        self.parameters = json.loads(json.dumps(listed.input_schema))
        self.timeout_s = server.settings.timeout_s

    @property
    def call_name(self) -> str:
        return self._listed_name

    async def call(self, arguments: Mapping[str, Any], episode: ToolEpisode) -> ToolResult:
        try:
            # Arguments that cannot be sent would end the connection for all episodes. They are nested as in the message.
            to_json({"params": {"arguments": {"": arguments}}})
        except ValueError as error:
            return ToolResult(f"The arguments are not JSON: {one_line(error)}", status=ToolStatus.ERROR)
        try:
            # A slow start is not the model's error, so the toolbox must not record it as a TIMEOUT.
            async with asyncio.timeout(0.8 * self._server.settings.timeout_s):
                connection = await self._server.connection(episode)
        except TimeoutError:
            return ToolResult(f"{self.call_name} is not available: its server is still starting.", status=ToolStatus.UNAVAILABLE)
        return await connection.call(self.call_name, dict(arguments))
