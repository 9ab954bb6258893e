"""What a user writes as `tools=`: names, import paths, functions and Tools; what is wrong is one line that says what to write."""

import sys

import future_functions
import pytest

from envs import Task, Tool, ToolEnv, ToolResult, tool
from envs.errors import UsageError
from envs.tools.code import CodeTool
from envs.tools.opening import SearchOptions, named_tools, open_tools
from envs.tools.text_search import TextSearchTool

TASK = Task("t", "Q", "A", "reasoning", "test")


class Texts:
    """A text search that finds nothing."""

    async def search(self, queries, top_k):
        return [[] for _ in queries]


def names(*settings, **options):
    return [made.name for made in open_tools(settings, SearchOptions(**options))]


def refusal(settings, **options):
    with pytest.raises(UsageError) as refused:
        open_tools(settings, SearchOptions(**options))
    assert "\n" not in str(refused.value)
    return str(refused.value)


def double(number: int) -> int:
    """Double a number."""
    return 2 * number


def test_the_default_is_code_and_the_searches_that_have_something_to_search_in():
    assert [made.name for made in open_tools(None, SearchOptions())] == ["code"]
    assert [made.name for made in open_tools(None, SearchOptions(text_search=Texts()))] == ["code", "text_search"]


def test_no_tools_are_no_tools():
    assert names() == []


def test_built_in_tools_are_opened_by_name():
    code, search = open_tools(["code", "text_search"], SearchOptions(text_search=Texts(), top_k=3, search_s=7.0))
    assert isinstance(code, CodeTool)
    assert isinstance(search, TextSearchTool)
    assert search.timeout_s == 7.0


def test_a_function_becomes_a_tool():
    assert names(double) == ["double"]


def test_a_tool_is_taken_as_it_is():
    made = tool(double)
    assert open_tools([made], SearchOptions()) == [made]


def test_a_class_of_tools_is_made():
    assert names(future_functions.Echo) == ["echo"]


@pytest.mark.parametrize(
    ("path", "name"), [("shout", "shout"), ("zoom", "zoom"), ("Echo", "echo"), ("ready", "echo")], ids=lambda name: name
)
def test_an_import_path_may_name_a_function_a_tool_or_a_class(path, name):
    assert names(f"future_functions:{path}") == [name]


def test_a_module_outside_the_checkout_is_found_on_the_path(tmp_path, monkeypatch):
    (tmp_path / "a_strangers_tools.py").write_text("def look(where: str) -> str:\n    'Look.'\n    return where\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        assert names("code", "a_strangers_tools:look") == ["code", "look"]
    finally:
        sys.modules.pop("a_strangers_tools", None)


def test_an_unknown_tool_is_answered_with_the_nearest():
    assert "tools=text_serch: there is no such name; did you mean text_search?" in refusal(["text_serch"])


def test_a_search_with_nothing_to_search_in_is_refused():
    assert "give text_search=… as well" in refusal(["text_search"])


@pytest.mark.parametrize(
    ("setting", "shown"),
    [
        ("code", "tools=[code]"),
        (double, "tools=[double]"),
        (tool(double), "tools=[double]"),
        ({"mcp": {}}, "write a list"),
        (5, "[5]"),
    ],
    ids=["a name", "a function", "a tool", "a mapping", "a number"],
)
def test_what_is_no_list_is_refused(setting, shown):
    assert shown in refusal(setting)
    with pytest.raises(UsageError, match="write a list"):
        named_tools(setting)


@pytest.mark.parametrize(
    "settings",
    [
        ["code", "code"],
        [double, tool(double)],
        [tool(name="code")(double), "code"],
        [double, future_functions.Echo, "future_functions:Echo"],
    ],
)
def test_two_tools_of_one_name_are_refused(settings):
    assert "two tools are called" in refusal(settings)


def test_a_tool_that_is_called_as_another_is_named_is_refused():
    """`text_search` is written as `search`."""
    assert "two tools are called 'search'" in refusal(["text_search", tool(name="search")(double)], text_search=Texts())


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("future_functions:number", "5 is not a tool"),
        ("future_functions:nothing", "has no nothing"),
        ("nowhere_at_all:x", "PYTHONPATH"),
        ("future_functions:Needy", "key"),
        ("future_functions:Unfinished", "call"),
        ("future_functions:Nameless", "has no name"),
        ("future_functions:unknown_type", "Decimal"),
        (5, "5 is not a tool"),
        (None, "None is not a tool"),
        ({"mpc": {}}, "mcp"),
    ],
    ids=str,
)
def test_what_cannot_be_a_tool_is_refused(setting, named):
    assert named in refusal([setting])


def test_rows_may_name_the_built_in_tools_and_the_given_ones():
    assert named_tools(["code", double, "future_functions:Echo"]) == {"code", "text_search", "image_search", "double", "echo"}


def test_rows_may_name_any_tool_if_a_server_has_yet_to_list_them():
    assert named_tools([{"mcp": {"command": ["x"]}}]) is None


def test_tools_are_taken_away_by_name():
    assert ToolEnv([TASK], tools=["code", double], without=["code"]).tools == ("double",)


def test_a_name_without_a_list_is_refused_where_tools_are_taken_away():
    with pytest.raises(UsageError, match=r"without=\[code\]"):
        ToolEnv([TASK], tools=["code"], without="code")


def test_what_is_taken_away_makes_room_for_another_of_its_name():
    class Mine(Tool):
        name = "mine"

        async def call(self, arguments, episode):
            return ToolResult()

    assert ToolEnv([TASK], tools=[Mine(), double], without=["double"]).tools == ("mine",)
