"""Tools of real MCP servers, over standard input and output and over HTTP.

What they return reaches the model, what goes wrong with one call or one server costs nobody else anything, and no process outlives
its connection.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from mcp.types import Tool
from PIL import Image

from envs import Task, ToolEnv
from envs.errors import InfrastructureError, UsageError
from envs.tools import mcp_connection, mcp_server
from envs.tools.mcp_server import McpServer, McpTool
from envs.tools.tool import ToolEpisode
from envs.types import ToolResult, ToolStatus

pytestmark = pytest.mark.asyncio(loop_scope="module")

ROOT = Path(__file__).parents[3]
PROGRAM = str(Path(__file__).with_name("mcp_test_server.py"))
STDIO = {"command": [sys.executable, PROGRAM, "stdio"]}
TASK = Task("task", "What is it?", "3", ("perception",), "test", images=(Image.new("RGB", (8, 8)),))


class HttpServer:
    """The program as a server on a free port, which it keeps when it is started again."""

    def __init__(self) -> None:
        self.url = ""
        self.start()

    def start(self) -> None:
        port = self.url.split(":")[2].split("/")[0] if self.url else "0"
        command = [sys.executable, PROGRAM, "http", port]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture(scope="module")
def http():
    server = HttpServer()
    yield server
    server.end()


@pytest.fixture(params=["stdio", "http"])
def settings(request):
    return STDIO if request.param == "stdio" else {"url": request.getfixturevalue("http").url}


def new_episode() -> ToolEpisode:
    async def no_sandbox():
        raise AssertionError("no tool here runs code")

    return ToolEpisode(TASK, [], no_sandbox)


async def call(settings, name: str, arguments: dict | None = None, episode: ToolEpisode | None = None) -> ToolResult:
    tools = {tool.call_name: tool for tool in await McpServer.open(settings).tools()}
    return await tools[name].call(arguments or {}, episode or new_episode())


async def until_gone(pid: int) -> None:
    """Returns when the process has ended; pytest's own timeout fails the test if it never does."""
    with suppress(FileNotFoundError, ProcessLookupError):
        while Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z":
            await asyncio.sleep(0.02)


# What it offers.


async def test_tools_are_listed_with_their_schemas(settings):
    tools = {tool.call_name: tool for tool in await McpServer.open(settings).tools()}
    schema = tools["add"].guide.schema["function"]
    assert (schema["name"], schema["description"]) == ("add", "Add two numbers.")
    assert schema["parameters"]["properties"]["a"]["type"] == "integer"
    assert schema["parameters"]["required"] == ["a"]
    assert tools["add"].timeout_s == 30


async def test_the_settings_choose_tools_and_their_deadline(http):
    (tool,) = await McpServer.open({"url": http.url, "tools": ["count"], "timeout_s": 5}).tools()
    assert (tool.name, tool.timeout_s) == ("count", 5)
    with pytest.raises(UsageError, match="has no tool cuont: write some of add, echo"):
        await McpServer.open({"url": http.url, "tools": ["cuont"]}).tools()


async def test_a_name_is_made_safe_for_metrics_and_kept_for_calls():
    tool = next(tool for tool in await McpServer.open(STDIO).tools() if tool.call_name == "fails.badly/always")
    assert tool.name == "fails_badly_always"


# What comes back.


async def test_texts(settings):
    assert await call(settings, "add", {"a": 2, "b": 3}) == ToolResult("5")
    assert await call(settings, "echo", {"value": None}) == ToolResult("None\nbye")


async def test_an_image(settings):
    result = await call(settings, "picture")
    (image,) = result.images
    assert (image.mode, image.size, image.getpixel((0, 0))) == ("RGB", (40, 30), (255, 0, 0))
    assert (result.text, result.status) == ("", ToolStatus.OK)


async def test_an_image_of_a_megabyte_passes(settings):
    (image,) = (await call(settings, "picture", {"width": 700, "height": 700, "noise": True})).images
    assert image.size == (700, 700)


async def test_broken_and_oversized_images_are_said_in_the_text(monkeypatch):
    monkeypatch.setattr(mcp_connection, "MAX_PIXELS", 1000)
    assert await call(STDIO, "broken_picture") == ToolResult("[image left out: it is broken]\nsee above")
    assert await call(STDIO, "picture") == ToolResult("[image left out: it has more than 0 megapixels]")


async def test_other_kinds_are_named():
    assert (await call(STDIO, "mixed")).text == "a note\n[audio left out]\n[resource link file:///far left out]"


async def test_a_failed_tool_and_wrong_arguments_are_errors(settings):
    assert (await call(settings, "fails.badly/always")).status is ToolStatus.ERROR
    wrong = await call(settings, "add", {"a": "two"})
    assert wrong.status is ToolStatus.ERROR
    assert "valid integer" in wrong.text


async def test_a_tool_that_is_gone_is_an_error(settings):
    gone = McpTool(McpServer.open(settings), Tool(name="gone", input_schema={"type": "object"}))
    assert await gone.call({}, new_episode()) == ToolResult("Unknown tool: gone", status=ToolStatus.ERROR)


@pytest.mark.parametrize("value", ["\ud800", object(), json.loads("[" * 300 + "]" * 300)], ids=["surrogate", "object", "depth"])
async def test_arguments_that_cannot_be_sent_leave_the_connection_alone(settings, value):
    result = await call(settings, "echo", {"value": value})
    assert result.status is ToolStatus.ERROR
    assert "not JSON" in result.text
    assert (await call(settings, "add", {"a": 1})).text == "2"


# Trouble.


async def test_a_server_that_dies_amid_calls_is_started_again():
    server = McpServer.open(STDIO)
    before = server.restarts
    died, waiting = await asyncio.gather(call(STDIO, "die"), call(STDIO, "hang"))
    assert died.status is waiting.status is ToolStatus.UNAVAILABLE
    assert "\n" not in died.text
    assert (await call(STDIO, "add", {"a": 1})).text == "2"
    assert server.restarts == before + 1


async def test_a_server_that_dies_between_calls_costs_none(caplog):
    pid = int((await call(STDIO, "pid")).text)
    os.kill(pid, signal.SIGKILL)
    await until_gone(pid)
    while not next(iter(McpServer.open(STDIO)._connections.values())).ended:
        await asyncio.sleep(0.01)
    assert (await call(STDIO, "add", {"a": 1})).text == "2"
    assert "ended (many words) and is started again" in caplog.text


async def test_a_server_elsewhere_may_go_and_come_back(http, monkeypatch):
    monkeypatch.setattr(mcp_server, "PAUSES_S", (0.0, 0.0, 0.0))
    settings = {"url": http.url}
    assert (await call(settings, "die")).status is ToolStatus.UNAVAILABLE
    with pytest.raises(InfrastructureError, match="does not start"):
        # The first call over a connection that is gone may be the one to learn of it.
        for _ in range(2):
            assert (await call(settings, "add", {"a": 1})).status is ToolStatus.UNAVAILABLE
    http.end()
    http.start()
    assert (await call(settings, "add", {"a": 1})).text == "2"


async def test_a_hanging_call_costs_nobody_else_anything(settings):
    async def hang():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await call(settings, "hang")

    before = McpServer.open(settings).restarts
    _, *others = await asyncio.gather(hang(), *(call(settings, "add", {"a": a}) for a in range(16)))
    assert [other.text for other in others] == [str(a + 1) for a in range(16)]
    assert (await call(settings, "add", {"a": 1})).text == "2"
    assert McpServer.open(settings).restarts == before


async def test_a_slow_start_is_not_the_models_doing(http):
    tool, *_ = await McpServer.open({"url": http.url, "timeout_s": 0.001, "per_episode": True}).tools()
    episode = new_episode()
    result = await tool.call({"a": 1}, episode)
    assert result == ToolResult("add is not available: its server is still starting.", status=ToolStatus.UNAVAILABLE)
    await episode.stack.aclose()


# Whose connection it is, and how long it lasts.


async def test_settings_share_a_server():
    assert McpServer.open({"command": ["x"], "env": {"A": 1, "B": "2"}}) is McpServer.open(
        {"env": {"B": "2", "A": "1"}, "command": ["x"], "timeout_s": 30}
    )
    assert McpServer.open({"command": ["x"]}) is not McpServer.open({"command": ["x"], "per_episode": True})


async def test_episodes_may_have_a_server_each():
    own = STDIO | {"per_episode": True}
    await McpServer.open(own).tools()

    async def play():
        episode = new_episode()
        counts = [(await call(own, "count", episode=episode)).text for _ in range(2)]
        pid = int((await call(own, "pid", episode=episode)).text)
        await episode.stack.aclose()
        await until_gone(pid)
        return counts, pid

    (first, one), (second, other) = await asyncio.gather(play(), play())
    assert first == second == ["1", "2"]
    assert one != other


async def test_a_process_ends_with_its_event_loop_and_with_a_worker_that_is_killed():
    worker = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WORKER, *STDIO["command"], stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert worker.stdout is not None
    of_first_loop, of_second_loop = int(await worker.stdout.readline()), int(await worker.stdout.readline())
    assert of_first_loop != of_second_loop
    assert not Path(f"/proc/{of_first_loop}").exists()
    worker.kill()
    await worker.wait()
    await until_gone(of_second_loop)


WORKER = """
import asyncio, sys
import envs
envs.ToolEnv
assert "mcp" not in sys.modules, "importing it takes half a second, for users who need it only"
from envs.tools.mcp_server import McpServer

async def play(then):
    tools = {tool.name: tool for tool in await McpServer.open({"command": sys.argv[1:]}).tools()}
    episode = envs.ToolEpisode(None, [], None)
    print((await tools["pid"].call({}, episode)).text, flush=True)
    await tools[then].call({}, episode)

asyncio.run(play("count"))
asyncio.run(play("hang"))
"""


# Mistakes of the user.


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("server.py", "mcp is 'server.py': write {mcp: {command"),
        ({}, "neither command nor url"),
        ({"command": ["x"], "url": "http://x"}, "both command and url"),
        ({"command": []}, "mcp.command is []"),
        ({"command": "python server.py"}, "mcp.command is 'python server.py'"),
        ({"command": ["x"], "comand": 1}, "mcp has comand: write some of command, url"),
        ({"command": ["x"], "headers": {"a": "b"}}, "mcp has headers, which only goes with url"),
        ({"url": "http://x", "env": {"A": "b"}}, "mcp has env, which only goes with command"),
        ({"url": "localhost:80"}, "mcp.url is 'localhost:80'"),
        ({"command": ["x"], "timeout_s": 0}, "mcp.timeout_s is 0"),
    ],
)
async def test_wrong_settings_are_one_line(wrong, said):
    with pytest.raises(UsageError) as caught:
        McpServer.open(wrong)
    assert said in str(caught.value)
    assert "write" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"command": ["no-such-program"]}, "No such file or directory: 'no-such-program'; correct command"),
        ({"command": [sys.executable, "-c", "import no_such_module"]}, "(ModuleNotFoundError: No module named 'no_such_module')"),
        ({"command": [sys.executable, "-c", "input(); input()"], "start_s": 0.3}, "did not answer within 0.3 s"),
        ({"url": "http://127.0.0.1:9/mcp"}, "start it, or correct url or headers"),
    ],
    ids=["no program", "a crash", "silence", "nobody listens"],
)
async def test_a_server_that_does_not_start_is_one_line(settings, said):
    with pytest.raises(UsageError) as caught:
        await McpServer.open(settings).tools()
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


# In an environment.


async def test_an_environment_calls_tools_of_a_server(settings):
    env = ToolEnv([TASK], tools=[{"mcp": settings}])
    await env.reset_async(seed=0)
    assert "picture" in [schema["function"]["name"] for schema in env.tool_schemas]
    observation, _, terminated, truncated, info = await env.step_async(
        '<tool_call>{"name": "picture", "arguments": {}}</tool_call>'
    )
    assert [image.shape for image in observation["images"]] == [(30, 40, 3)]
    assert [(record.tool, record.status) for record in info["tool_calls"]] == [("picture", ToolStatus.OK)]
    assert not terminated
    assert not truncated
    assert (await env.call("add", {"a": 2})).text == "3"
    assert (await env.call("fails.badly/always")).status is ToolStatus.ERROR
    *_, terminated, _, info = await env.finish("3")
    assert terminated
    assert info["reward_parts"]["accuracy"] == 1
    await env.close_async()


async def test_a_process_ends_when_its_server_is_closed():
    # This test comes last since those before it share the process.
    pid = int((await call(STDIO, "pid")).text)
    await McpServer.open(STDIO).close()
    await until_gone(pid)
