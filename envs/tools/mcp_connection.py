"""A connection to an MCP server, and its settings.

Only this module imports `mcp`, and at the first use: the import takes half a second.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shlex
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TextIO

from PIL import Image
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from envs.errors import PictureError, UsageError
from envs.pictures import decode, from_base64
from envs.types import ToolResult, ToolStatus

if TYPE_CHECKING:
    import mcp

log = logging.getLogger(__name__)

MAX_PIXELS = 64_000_000
_FORMATS = ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"]  # for some others, Pillow starts programs
_MAX_EVENT_BYTES = 1 << 28
_SESSION_GONE = "Session terminated"
# What the client itself says if an HTTP status comes without a message of MCP.
_HTTP_PROBLEMS = (_SESSION_GONE, "Server returned an error response", "Not Found")
_REMEDY = "write {mcp: {command: [python, server.py]}} or {mcp: {url: http://…}}"

_Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Texts = Annotated[tuple[str, ...], Field(min_length=1)]


@dataclass(frozen=True, slots=True)
class McpSettings:
    """The settings under `mcp`: either `command` or `url`, and the options of each.

    `command` is a program with its arguments, which speaks MCP over its standard input and output. It is started in the folder
    `cwd`, and inherits PATH, HOME, LOGNAME, SHELL, TERM and USER; `env` adds to them. `url` is the endpoint of a running server
    (Streamable HTTP), to which `headers` are sent. `tools` names the tools to offer, by default all. A call ends after `timeout_s`
    seconds; a start, with the list of tools, after `start_s` seconds. `per_episode` gives each episode its own connection.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", coerce_numbers_to_str=True)

    command: _Texts | None = None
    url: Annotated[str, Field(pattern="^https?://.")] | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout_s: _Seconds = 30.0
    start_s: _Seconds = 30.0
    tools: _Texts | None = None
    per_episode: bool = False

    @classmethod
    def read(cls, given: Any) -> McpSettings:
        """The settings that a user wrote. Raises UsageError if they are wrong."""
        if not isinstance(given, Mapping):
            raise UsageError(f"mcp is {given!r}: {_REMEDY}")
        known = [known.name for known in fields(cls)]
        if unknown := [str(name) for name in given if name not in known]:
            raise UsageError(f"mcp has {', '.join(unknown)}: write some of {', '.join(known)}")
        try:
            settings = TypeAdapter(cls).validate_python(dict(given))
        except ValidationError as error:
            wrong = error.errors()[0]
            path = ".".join(("mcp", *map(str, wrong["loc"])))
            raise UsageError(f"{path} is {wrong['input']!r}: {one_line(wrong['msg'])}; {_REMEDY}") from None
        if (settings.command is None) == (settings.url is None):
            raise UsageError(f"mcp has {'neither command nor' if settings.url is None else 'both command and'} url: {_REMEDY}")
        for name, needed in (("env", "command"), ("cwd", "command"), ("headers", "url")):
            if getattr(settings, name) and getattr(settings, needed) is None:
                raise UsageError(f"mcp has {name}, which only goes with {needed}: leave {name} out, or write {needed}")
        return settings

    @property
    def label(self) -> str:
        """The server's name in messages."""
        return f"the MCP server {self.url or shlex.join(self.command or ())}"


class Connection:
    """One client. Its context managers are entered and left by one task, as anyio demands; each call runs in another task."""

    def __init__(self, settings: McpSettings, forget: Callable[[Connection], None]) -> None:
        self.listed: list[mcp.Tool] = []
        self._settings = settings
        self._client: mcp.Client | None = None
        self._started: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._over = asyncio.Event()
        self._stderr = b""
        self._owner = asyncio.create_task(self._own())
        # Closing the connection or its loop cancels the task; a connection that ended by itself stays until `_connect` replaces it.
        self._owner.add_done_callback(lambda owner: forget(self) if owner.cancelled() else None)

    @property
    def ended(self) -> bool:
        """Whether no further call can succeed."""
        return self._over.is_set() or self._owner.done()

    async def problem(self) -> str:
        """Wait for the start. Returns why it failed, in one line, or ""."""
        await asyncio.wait({self._started, self._owner}, return_when=asyncio.FIRST_COMPLETED)
        return self._started.result() if self._started.done() else f"{self._settings.label} was closed"

    async def call(self, name: str, arguments: dict[str, Any]) -> ToolResult:
        """The result of a call, whatever happens to the server meanwhile."""
        import mcp
        from mcp.types import CONNECTION_CLOSED

        assert self._client is not None
        call = asyncio.create_task(self._client.call_tool(name, arguments))
        problem = "its server gave no answer"
        try:
            await asyncio.wait({call, self._owner}, return_when=asyncio.FIRST_COMPLETED)
            if call.done():
                return await _result(call.result())
        except mcp.MCPError as error:
            if error.code != CONNECTION_CLOSED and error.message not in _HTTP_PROBLEMS:
                return ToolResult(error.message, status=ToolStatus.ERROR)
            if error.message == _SESSION_GONE:
                self._over.set()
            problem += f" ({one_line(error)})"
        except Exception as error:  # above all, a result that does not conform to its own server's schema
            problem = f"its answer cannot be used ({one_line(error)})"
        finally:
            # It is not awaited: a server that no longer reads would delay it.
            call.cancel()
        return ToolResult(f"{name} is not available: {problem}.", status=ToolStatus.UNAVAILABLE)

    async def close(self) -> None:
        """Leave the client; a process is asked to end, and killed after a few seconds."""
        if not self._over.is_set():
            self._owner.cancel()
        await asyncio.wait({self._owner})

    def last_words(self) -> str:
        """The last line that the process wrote to its standard error, in brackets."""
        lines = [line for line in self._stderr.decode(errors="replace").split("\n") if line.strip()]
        return f" ({one_line(lines[-1])})" if lines else ""

    async def _own(self) -> None:
        """Enter the client, list the tools, and stay until the connection is over."""
        try:
            async with AsyncExitStack() as stack:
                client = await self._open(stack)
                async with asyncio.timeout(self._settings.start_s):
                    self._client = await stack.enter_async_context(client)
                    cursor, more = None, True
                    while more:
                        page = await client.list_tools(cursor=cursor)
                        self.listed += page.tools
                        cursor, more = page.next_cursor, bool(page.next_cursor)
                self._started.set_result("")
                await self._over.wait()
        except Exception as error:
            if not self._started.done():
                self._started.set_result(self._failed_start(error))

    async def _open(self, stack: AsyncExitStack) -> mcp.Client:
        import httpx2
        import mcp
        from mcp.client.stdio import stdio_client
        from mcp.client.streamable_http import streamable_http_client

        settings = self._settings
        # Our own messages say in one line what happens to a server; its client would log a traceback for each stray line.
        logging.getLogger("mcp.client").setLevel(logging.CRITICAL)
        if settings.command is not None:
            command, *rest = settings.command
            options: Any = {"env": settings.env, "cwd": settings.cwd, "encoding_error_handler": "replace"}
            parameters = mcp.StdioServerParameters(command=command, args=rest, **options)
            transport: Any = stdio_client(parameters, errlog=stack.enter_context(self._hearing()))
        else:
            # Each call has its own deadline; a timeout of the client would end the connection for all calls.
            patient, limits = httpx2.Timeout(settings.start_s, read=None, pool=None), httpx2.Limits(max_connections=None)
            http = httpx2.AsyncClient(headers=dict(settings.headers), timeout=patient, limits=limits)
            http.event_hooks = {"request": [_hurry_goodbye]}
            await stack.enter_async_context(http)
            transport = streamable_http_client(settings.url or "", http_client=http, max_sse_event_size=_MAX_EVENT_BYTES)
        return mcp.Client(_watched(transport, self._over))

    @contextmanager
    def _hearing(self) -> Generator[TextIO]:
        """A file for the process's standard error, of which the last 4 KiB are kept."""
        read, write = os.pipe()

        def hear() -> None:
            with suppress(BlockingIOError):
                self._stderr = (self._stderr + os.read(read, 1 << 20))[-4096:]

        os.set_blocking(read, False)
        loop = asyncio.get_running_loop()
        loop.add_reader(read, hear)
        try:
            with open(write, "w") as file:
                yield file
        finally:
            hear()
            loop.remove_reader(read)
            os.close(read)

    def _failed_start(self, error: BaseException) -> str:
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        settings, late = self._settings, isinstance(error, TimeoutError)
        reason = f"it did not answer within {settings.start_s:g} s" if late else one_line(error)
        remedy = "start it, or correct url or headers" if settings.url else "correct command, env or cwd"
        return f"{settings.label} does not start: {reason}{self.last_words()}; {remedy}"


class _WatchedStream:
    """The read stream of a transport, which reports its end: the client leaves the stream when nothing more can arrive."""

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
async def _watched(transport: Any, over: asyncio.Event) -> AsyncGenerator[Any]:
    async with transport as (read, write):
        yield _WatchedStream(read, over), write


async def _hurry_goodbye(request: Any) -> None:
    """Limits the client's closing DELETE request to 2 s: a server that hangs would delay it forever."""
    if request.method == "DELETE":
        request.extensions["timeout"] = dict.fromkeys(("connect", "read", "write", "pool"), 2.0)


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
        return decode(from_base64(data), _FORMATS, MAX_PIXELS)
    except PictureError as error:
        why = f"it has more than {MAX_PIXELS // 10**6} megapixels" if error.too_large else "it is broken"
        return f"[image left out: {why}]"


def one_line(message: object) -> str:
    text = " ".join(str(message).split()) or type(message).__name__
    return text if len(text) <= 300 else f"{text[:299]}…"
