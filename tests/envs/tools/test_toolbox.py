"""The tools of one episode: the calls of a turn run at the same time and are recorded in order, each tool keeps its own state,
images that come back can be searched for, and whatever a tool does becomes a result."""

import asyncio

import pytest
from PIL import Image

from envs import Task, Tool, ToolResult, ToolStatus, tool
from envs.errors import InfrastructureError, UsageError
from envs.protocols import Call
from envs.search.types import Match, Passage, TextSearch
from envs.tools.code import CodeTool
from envs.tools.image_search import ImageSearchTool
from envs.tools.text_search import TextSearchTool
from envs.tools.toolbox import Toolbox
from sandbox import SandboxUnavailable

TASK = Task("t", "Q", "A", "reasoning", "test", images=(Image.new("RGB", (40, 30)),))


async def no_sandbox():
    raise SandboxUnavailable("no user namespaces")


def toolbox(*tools, **options):
    return Toolbox(tools, TASK, sandbox=no_sandbox, **options)


class Own(Tool):
    """A tool whose `call` is the function it is given."""

    def __init__(self, function, name="own", timeout_s=5.0):
        self._function, self.name, self.timeout_s = function, name, timeout_s

    async def call(self, arguments, episode):
        return await self._function(arguments, episode)


class Gallery:
    """An image search that remembers what it was asked for."""

    def __init__(self):
        self.sizes = []

    async def search(self, image, top_k):
        self.sizes.append(image.size)
        return [Match("a heron", "x", 0.9)]


@tool
def crop(width: int) -> Image.Image:
    """Crop."""
    return Image.new("RGB", (width, 20))


async def test_a_call_is_recorded_with_tool_status_time_and_arguments():
    ((record, result),) = await toolbox(crop).run([Call("crop", {"width": 9})])
    assert (record.tool, record.status, record.arguments) == ("crop", ToolStatus.OK, "crop {'width': 9}")
    assert record.latency_s >= 0
    assert result.images[0].size == (9, 20)


async def test_a_tool_that_does_not_exist_is_an_error_that_names_those_that_do():
    ((record, result),) = await toolbox(crop).run([Call("zoom")])
    assert (record.tool, record.status) == ("unknown", ToolStatus.ERROR)
    assert "'zoom'" in result.text
    assert "crop" in result.text


@tool
def measure(sides: list[int], unit: str = "px", strict: bool = False) -> str:
    """Measure."""
    return f"{sum(sides)} {unit} {strict}"


class Words(TextSearch):
    """A text search that finds the query itself."""

    async def search(self, queries, top_k):
        return [[Passage(query, "", "x")] for query in queries]


SEARCH = TextSearchTool(Words())


@pytest.mark.parametrize("name", ["measure", "Measure", " measure ", "functions.measure", "tools.measure", "measure:0"])
async def test_a_tool_is_found_by_its_name_however_it_is_spelt(name):
    ((record, result),) = await toolbox(crop, measure).run([Call(name, {"sides": [1, 2]})])
    assert (record.tool, result.text) == ("measure", "3 px False")


@pytest.mark.parametrize(("name", "close"), [("mesure", "measure"), ("functions.cropp", "crop"), ("measure_it", "measure")])
async def test_a_name_that_is_spelt_alike_is_answered_with_the_right_one(name, close):
    ((record, result),) = await toolbox(crop, measure).run([Call(name)])
    assert (record.tool, record.status) == ("unknown", ToolStatus.ERROR)
    assert result.text == f"There is no tool {name!r}. Did you mean {close!r}? Available: crop, measure."


@pytest.mark.parametrize(
    "arguments",
    [
        {"sides": "[1, 2]"},
        {"sides": [1, 2], "strict": "false"},
        {"sides": ["1", "2"]},
        {"arguments": {"sides": [1, 2]}},
        {"arguments": '{"sides": [1, 2]}'},
        {"input": {"sides": "[1, 2]"}},
    ],
    ids=str,
)
async def test_arguments_are_fitted_to_the_schema(arguments):
    ((_, result),) = await toolbox(measure).run([Call("measure", arguments)])
    assert result.text == "3 px False"


@pytest.mark.parametrize(
    ("arguments", "wrong"),
    [
        ({}, "sides: field required"),
        ({"sides": "many"}, "sides: input should be a valid list"),
        ({"sides": [1], "colour": "red"}, "colour: extra inputs are not permitted"),
        ({"arguments": "three and four"}, "sides: field required"),
    ],
    ids=str,
)
async def test_arguments_that_do_not_fit_get_one_line_with_the_schema(arguments, wrong):
    ((record, result),) = await toolbox(measure).run([Call("measure", arguments)])
    assert record.status is ToolStatus.ERROR
    assert wrong in result.text
    assert '"sides"' in result.text
    assert "\n" not in result.text


async def test_an_argument_that_a_built_in_tool_does_not_have_is_said_to_be_ignored():
    ((record, result),) = await toolbox(SEARCH).run([Call("search", {"query": "2024", "top_k": 3})])
    assert (record.tool, record.status) == ("text_search", ToolStatus.OK)
    assert result.text == "1. 2024\nx\nIgnored: top_k. search takes query, queries."


async def test_queries_may_be_a_list_in_json_text_but_a_query_is_text():
    ((_, one), (_, two)) = await toolbox(SEARCH).run([Call("search", {"query": "[1]"}), Call("search", {"queries": '["a", "b"]'})])
    assert one.text.startswith("1. [1]")
    assert two.text.startswith("a:\n1. a")


class Echo(Tool):
    """Stands in for the code tool: it returns its source."""

    name = "code"
    parameters = CodeTool.parameters
    ignores_others = CodeTool.ignores_others

    async def call(self, arguments, episode):
        return ToolResult(str(arguments.get("code")))


@pytest.mark.parametrize("name", ["code", "python", "Python", "code_interpreter", "execute_python", "run-code", "functions.python"])
@pytest.mark.parametrize(
    "arguments",
    [{"code": "1"}, {"source": "1"}, {"script": "1"}, {"input": "1"}, {"text": "1"}, {"code": "```python\n1\n```"}],
    ids=str,
)
async def test_code_is_called_by_any_of_its_names(name, arguments):
    ((record, result),) = await toolbox(Echo(), crop).run([Call(name, arguments)])
    assert (record.tool, result.text) == ("code", "1")


async def test_a_name_of_the_code_tool_is_unknown_if_it_is_not_offered():
    ((record, result),) = await toolbox(crop).run([Call("python", {"code": "1"})])
    assert (record.tool, result.text) == ("unknown", "There is no tool 'python'. Available: crop.")


async def test_no_tools_at_all_are_none():
    ((_, result),) = await toolbox().run([Call("zoom")])
    assert "Available: none" in result.text


async def test_the_calls_of_a_turn_run_at_the_same_time():
    met = asyncio.Barrier(3)

    async def meet(arguments, episode):
        await met.wait()
        return ToolResult("met")

    ended = await toolbox(Own(meet)).run([Call("own")] * 3)
    assert [result.text for _, result in ended] == ["met"] * 3


async def test_results_are_in_the_order_of_the_calls_not_of_their_ends():
    first_may_end = asyncio.Event()

    async def wait(arguments, episode):
        if arguments["number"] == 0:
            await first_may_end.wait()
        else:
            first_may_end.set()
        return ToolResult(str(arguments["number"]))

    ended = await toolbox(Own(wait)).run([Call("own", {"number": number}) for number in range(3)])
    assert [result.text for _, result in ended] == ["0", "1", "2"]


async def test_one_call_that_fails_leaves_the_others_alone():
    async def fail(arguments, episode):
        raise ValueError("dark")

    ended = await toolbox(Own(fail), crop).run([Call("own"), Call("crop", {"width": 9}), Call("zoom")])
    assert [record.status for record, _ in ended] == [ToolStatus.ERROR, ToolStatus.OK, ToolStatus.ERROR]


@pytest.mark.parametrize("error", [ValueError("dark"), TimeoutError("dark"), KeyError("dark")])
async def test_an_exception_of_an_own_tool_is_an_error_with_its_text(error):
    async def fail(arguments, episode):
        raise error

    ((record, result),) = await toolbox(Own(fail)).run([Call("own")])
    assert (record.tool, record.status) == ("own", ToolStatus.ERROR)
    assert result.text == f"{type(error).__name__}: {error}"


async def test_an_infrastructure_error_of_an_own_tool_is_a_failure():
    async def fail(arguments, episode):
        raise InfrastructureError("the service is down")

    ((record, result),) = await toolbox(Own(fail)).run([Call("own")])
    assert (record.status, result.text) == (ToolStatus.FAILURE, "the service is down")


async def test_a_sandbox_that_cannot_be_had_is_no_result():
    async def run(arguments, episode):
        await episode.sandbox()

    with pytest.raises(SandboxUnavailable):
        await toolbox(Own(run)).run([Call("own")])


async def test_when_a_turn_breaks_off_none_of_its_calls_goes_on():
    ended = asyncio.Event()

    async def run(arguments, episode):
        if arguments:
            await asyncio.sleep(0.01)
            ended.set()
            return ToolResult()
        await episode.sandbox()

    with pytest.raises(SandboxUnavailable):
        await toolbox(Own(run)).run([Call("own"), Call("own", {"slow": 1})])
    assert ended.is_set()


@pytest.mark.parametrize("returned", ["text", None, 5])
async def test_an_own_tool_that_gives_no_result_is_the_users_to_mend(returned):
    async def give(arguments, episode):
        return returned

    with pytest.raises(UsageError, match=r"the tool own returned a .*: return a ToolResult"):
        await toolbox(Own(give)).run([Call("own")])


async def test_a_call_ends_at_the_deadline_of_its_tool():
    async def hang(arguments, episode):
        await asyncio.sleep(20)

    ended = await toolbox(Own(hang, timeout_s=0.02), crop).run([Call("own"), Call("crop", {"width": 9})])
    assert [record.status for record, _ in ended] == [ToolStatus.TIMEOUT, ToolStatus.OK]
    assert ended[0][1].text == "own took longer than 0.02 s."


async def test_each_tool_keeps_state_of_its_own_through_the_episode():
    async def count(arguments, episode):
        episode.state["calls"] = episode.state.get("calls", 0) + 1
        return ToolResult(str(episode.state["calls"]))

    tools = toolbox(Own(count, "one"), Own(count, "two"))
    texts = [(await tools.run([Call(name)]))[0][1].text for name in ("one", "one", "two", "one")]
    assert texts == ["1", "2", "1", "3"]


async def test_state_does_not_reach_the_next_episode():
    async def count(arguments, episode):
        episode.state["calls"] = episode.state.get("calls", 0) + 1
        return ToolResult(str(episode.state["calls"]))

    own = Own(count)
    assert [(await toolbox(own).run([Call("own")]))[0][1].text for _ in range(2)] == ["1", "1"]


async def test_what_a_tool_opened_is_closed_with_the_episode():
    closed = asyncio.Event()

    async def open_(arguments, episode):
        episode.stack.callback(closed.set)
        return ToolResult()

    tools = toolbox(Own(open_))
    await tools.run([Call("own")])
    assert not closed.is_set()
    await tools.close()
    assert closed.is_set()


async def test_a_tool_may_be_called_by_either_of_its_names():
    class Texts:
        async def search(self, queries, top_k):
            return [[] for _ in queries]

    tools = toolbox(TextSearchTool(Texts()))
    ended = await tools.run([Call("search", {"query": "x"}), Call("text_search", {"query": "x"})])
    assert [record.tool for record, _ in ended] == ["text_search", "text_search"]
    assert [record.status for record, _ in ended] == [ToolStatus.OK, ToolStatus.OK]


async def test_images_that_come_back_can_be_searched_for():
    gallery = Gallery()
    tools = toolbox(crop, ImageSearchTool(gallery))
    await tools.run([Call("crop", {"width": 9}), Call("crop", {"width": 10})])
    await tools.run([Call("image_search", {"image": number}) for number in (1, 2, "image_3")])
    assert gallery.sizes == [(40, 30), (9, 20), (10, 20)]


async def test_a_turns_calls_see_the_images_of_the_turns_before():
    """Not those of the same turn: a model cannot have seen them."""
    tools = toolbox(crop, ImageSearchTool(Gallery()))
    ended = await tools.run([Call("crop", {"width": 9}), Call("image_search", {"image": 2})])
    assert [record.status for record, _ in ended] == [ToolStatus.OK, ToolStatus.ERROR]


async def test_hidden_outputs_keep_the_status_of_the_call():
    ended = await toolbox(crop, outputs="blank").run([Call("crop", {"width": 9}), Call("crop", {"width": "wide"})])
    assert [(record.status, result.text, result.images) for record, result in ended] == [
        (ToolStatus.OK, "", ()),
        (ToolStatus.ERROR, "", ()),
    ]
