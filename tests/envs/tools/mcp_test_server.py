"""A real MCP server for the tests: `python mcp_test_server.py stdio`, or `http [PORT]`, which prints its URL."""

import base64
import io
import os
import socket
import sys

import anyio
import uvicorn
from mcp.server import MCPServer
from mcp.types import (
    AudioContent,
    CallToolResult,
    EmbeddedResource,
    ImageContent,
    ResourceLink,
    TextContent,
    TextResourceContents,
)
from PIL import Image

server = MCPServer("test")
calls = 0


def encoded(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


@server.tool(description="Add two numbers.")
async def add(a: int, b: int = 1) -> int:
    return a + b


@server.tool()
async def echo(value: str | None = None) -> list[TextContent]:
    return [TextContent(text=f"{value!r}"), TextContent(text="bye")]


@server.tool()
async def picture(width: int = 40, height: int = 30, noise: bool = False) -> ImageContent:
    image = Image.new("RGBA", (width, height), (255, 0, 0, 255))
    if noise:
        image = Image.frombytes("RGB", image.size, os.urandom(3 * width * height))
    return ImageContent(data=encoded(image), mime_type="image/png")


@server.tool()
async def broken_picture() -> list[ImageContent | TextContent]:
    return [ImageContent(data="bm8gaW1hZ2U=", mime_type="image/png"), TextContent(text="see above")]


@server.tool()
async def mixed() -> CallToolResult:
    note = TextResourceContents(uri="note://1", text="a note", mime_type="text/plain")
    return CallToolResult(
        content=[
            EmbeddedResource(resource=note),
            AudioContent(data="AAAA", mime_type="audio/wav"),
            ResourceLink(uri="file:///far", name="far"),
        ]
    )


@server.tool(name="fails.badly/always")
async def fails() -> str:
    raise ValueError("the disk is full")


@server.tool()
async def count() -> int:
    global calls
    calls += 1
    return calls


@server.tool()
async def pid() -> int:
    return os.getpid()


@server.tool()
async def hang() -> None:
    await anyio.sleep_forever()


@server.tool()
async def die() -> None:
    print("a last word", file=sys.stderr, flush=True)
    os._exit(3)


if __name__ == "__main__":
    if sys.argv[1] == "stdio":
        print("many words\n" * 50_000, file=sys.stderr, flush=True)  # more than a pipe holds
        server.run("stdio")
    else:
        import uvicorn

        listener = socket.create_server(("127.0.0.1", int(sys.argv[2]) if len(sys.argv) > 2 else 0))
        print(f"http://127.0.0.1:{listener.getsockname()[1]}/mcp", flush=True)
        uvicorn.Server(uvicorn.Config(server.streamable_http_app(), log_level="warning")).run(sockets=[listener])
