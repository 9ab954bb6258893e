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
from functools import partial
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
            connection = self._connections[key] = _Connection(self.settings, attempts, partial(self._forget, key))
        if problem := await connection.problem():
            self._forget(key, connection)
            raise (UsageError if self._tools is None else InfrastructureError)(problem)
        return connection

    def _forget(self, key: Hashable, connection: _Connection) -> None:
        if self._connections.get(key) is connection:
            del self._connections[key]

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

    def __init__(self, settings: McpSettings, attempts: int, forget: Callable[[_Connection], None]) -> None:
        self.listed: list[mcp.Tool] = []
        self._settings, self._attempts = settings, attempts
        self._client: mcp.Client | None = None
        self._started: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._over = asyncio.Event()
        self._stderr = b""
        self._owner = asyncio.create_task(self._own())
        # Whoever closes it, or its loop, cancels the task; one that ended by itself is left for the next call to replace.
        self._owner.add_done_callback(lambda owner: forget(self) if owner.cancelled() else None)

    @property
    def ended(self) -> bool:
        """Whether no further call can succeed."""
        return self._owner.done() or (self._started.done() and self._over.is_set())

    async def problem(self) -> str:
        """Wait for the start. Returns why it failed, in one line, or ""."""
        await asyncio.wait({self._started, self._owner}, return_when=asyncio.FIRST_COMPLETED)
        return self._started.result() if self._started.done() else f"the MCP server {self._settings.label} was closed"

    async def call(self, name: str, arguments: Mapping[str, Any]) -> ToolResult:
        """The result of a call, whatever happens to the server meanwhile."""
        from mcp import MCPError
        from mcp.types import CONNECTION_CLOSED

        assert self._client is not None
        call = asyncio.create_task(self._client.call_tool(name, dict(arguments)))
        try:
            await asyncio.wait({call, self._owner}, return_when=asyncio.FIRST_COMPLETED)
            if call.done():
                return await _result(call.result())
            problem = "the server ended during the call"
        except MCPError as error:
            if error.code != CONNECTION_CLOSED and error.message not in _HTTP_PROBLEMS:
                return ToolResult(error.message, status=ToolStatus.ERROR)
            if error.message == _SESSION_GONE:
                self._over.set()
            problem = f"the server ended during the call ({_line(error)})"
        except (RuntimeError, ValueError) as error:
            problem = f"the server broke its own schema or the protocol ({_line(error)})"
        finally:
            # It is not awaited: what it tells a server that reads nothing any more would take its time.
            call.cancel()
        return ToolResult(f"{name} is not available: {problem}.", status=ToolStatus.UNAVAILABLE)

    async def close(self) -> None:
        """Leave the client; a process is asked to end, and after a few seconds killed."""
        if not self._over.is_set():
            self._owner.cancel()
        await asyncio.wait({self._owner})

    def last_words(self) -> str:
        """The last line that the process wrote to its standard error, in brackets."""
        lines = self._stderr.decode(errors="replace").split("\n")
        last = next((line for line in reversed(lines) if line.strip()), "")
        return f" ({_line(last)})" if last else ""

    async def _own(self) -> None:
        for attempt in range(1, self._attempts + 1):
            try:
                return await self._serve()
            except Exception as error:
                self._over.set()
                if self._started.done():
                    return
                if attempt == self._attempts:
                    self._started.set_result(self._failed_start(error))
            await asyncio.sleep(BACKOFF_S * 2 ** (attempt - 1))

    async def _serve(self) -> None:
        """Enter the client, list the tools, and stay until the connection is over."""
        self._over.clear()
        async with AsyncExitStack() as stack:
            async with asyncio.timeout(self._settings.start_s):
                self._client = client = await stack.enter_async_context(await self._open(stack))
                self.listed, cursor = [], None
                while True:
                    page = await client.list_tools(cursor=cursor)
                    self.listed += page.tools
                    if (cursor := page.next_cursor) is None:
                        break
            self._started.set_result("")
            await self._over.wait()

    async def _open(self, stack: AsyncExitStack) -> mcp.Client:
        import httpx2
        import mcp
        from mcp.client.stdio import stdio_client
        from mcp.client.streamable_http import streamable_http_client

        settings = self._settings
        # We say in one line what happens to a server; its own loggers would add a traceback for each stray line.
        logging.getLogger("mcp").setLevel(logging.CRITICAL)
        if settings.command is not None:
            command, *arguments = settings.command
            parameters = mcp.StdioServerParameters(
                command=command, args=arguments, env=dict(settings.env), cwd=settings.cwd, encoding_error_handler="replace"
            )
            transport: Any = stdio_client(parameters, errlog=stack.enter_context(self._hearing()))
        else:
            assert settings.url is not None
            # Calls have deadlines of their own, and a client that gave up on one would end the connection for all.
            patient = httpx2.Timeout(settings.start_s, read=None, pool=None)
            limits = httpx2.Limits(max_connections=None, max_keepalive_connections=32)
            http = httpx2.AsyncClient(
                headers=dict(settings.headers), timeout=patient, limits=limits, event_hooks={"request": [_hurry_goodbye]}
            )
            await stack.enter_async_context(http)
            transport = streamable_http_client(settings.url, http_client=http, max_sse_event_size=_MAX_EVENT_BYTES)
        return mcp.Client(_watched(transport, self._over))

    @contextmanager
    def _hearing(self) -> Iterator[TextIO]:
        """A file for the process's standard error, of which the end is kept."""
        loop = asyncio.get_running_loop()
        read, write = os.pipe()

        def hear() -> None:
            with suppress(BlockingIOError):
                self._stderr = (self._stderr + os.read(read, 1 << 20))[-_STDERR_BYTES:]

        os.set_blocking(read, False)
        loop.add_reader(read, hear)
        try:
            with open(write, "w") as file:
                yield file
                hear()
        finally:
            loop.remove_reader(read)
            os.close(read)

    def _failed_start(self, error: BaseException) -> str:
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        settings = self._settings
        reason = f"it did not answer within {settings.start_s:g} s" if isinstance(error, TimeoutError) else _line(error)
        remedy = "start it, or mend url or headers" if settings.url else "mend command, env or cwd"
        return f"the MCP server {settings.label} does not start: {reason}{self.last_words()}; {remedy}"


_SESSION_GONE = "Session terminated"
_HTTP_PROBLEMS = {_SESSION_GONE, "Server returned an error response", "Not Found"}
"""What the client says itself if an HTTP status came without a message of MCP."""


class _WatchedStream:
    """What a transport reads, with the news of its end: the client leaves the stream when no more comes."""

    def __init__(self, stream: Any, over: asyncio.Event) -> None:
        self._stream, self._over = stream, over

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __aiter__(self) -> Any:
        return aiter(self._stream)

    async def __aenter__(self) -> _WatchedStream:
        await self._stream.__aenter__()
        return self

    async def __aexit__(self, *raised: Any) -> bool | None:
        self._over.set()
        return await self._stream.__aexit__(*raised)


@asynccontextmanager
async def _watched(transport: Any, over: asyncio.Event) -> AsyncIterator[Any]:
    async with transport as (read, write):
        yield _WatchedStream(read, over), write


async def _hurry_goodbye(request: Any) -> None:
    """The client takes leave of a server by DELETE, and a server that hangs would keep it for ever."""
    if request.method == "DELETE":
        request.extensions["timeout"] = dict.fromkeys(("connect", "read", "write", "pool"), _GOODBYE_S)


async def _result(result: mcp.types.CallToolResult) -> ToolResult:
    texts: list[str] = []
    images: list[Image.Image] = []
    for content in result.content:
        part: Any = content.resource if content.type == "resource" else content
        data = getattr(part, "data", None) or getattr(part, "blob", None)
        if (text := getattr(part, "text", None)) is not None:
            texts.append(text)
        elif data is not None and (content.type == "image" or (part.mime_type or "").startswith("image/")):
            image = await asyncio.to_thread(_image, data)
            images.append(image) if isinstance(image, Image.Image) else texts.append(image)
        else:
            texts.append(f"[{' '.join((content.type.replace('_', ' '), getattr(part, 'uri', ''))).strip()} left out]")
    if not result.content and result.structured_content is not None:
        texts.append(json.dumps(result.structured_content, ensure_ascii=False))
    text = "\n".join(texts) if texts or images else "(no output)"
    return ToolResult(text, tuple(images), ToolStatus.ERROR if result.is_error else ToolStatus.OK)


def _image(data: str) -> Image.Image | str:
    """The image in base64 text, or a line that says why there is none."""
    try:
        # Not all that Pillow knows: for some formats it starts a program.
        with Image.open(io.BytesIO(base64.b64decode(data)), formats=("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF")) as opened:
            if opened.width * opened.height > MAX_PIXELS:
                return f"[image left out: {opened.width} x {opened.height} is more than {MAX_PIXELS // 10**6} megapixels]"
            return opened.convert("RGB")
    except Exception as error:
        return f"[image left out: {_line(error)}]"


def _line(said: object) -> str:
    text = " ".join(str(said).split()) or type(said).__name__
    return text if len(text) <= 300 else f"{text[:299]}…"
