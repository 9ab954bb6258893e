"""`@tool`: a typed function becomes a tool. Its schema says what the function takes, wrong arguments are answered with the remedy,
whatever it returns or raises becomes an observation, and a function that hangs ends at its deadline without holding up anybody."""

import asyncio
import enum
import functools
import threading
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Optional

import future_functions
import numpy as np
import pytest
from PIL import Image
from pydantic import BaseModel, Field

from envs import Task, Tool, ToolEpisode, ToolResult, ToolStatus, tool
from envs.errors import InfrastructureError, SearchUnavailable, UsageError
from envs.protocols import Call
from envs.tools.toolbox import Toolbox

TASK = Task("task-7", "Q", "A", "reasoning", "test")


async def no_sandbox():
    raise AssertionError("no tool here needs a sandbox")


async def call(made, **arguments):
    async with AsyncExitStack() as stack:
        return await made.call(arguments, ToolEpisode(TASK, [], no_sandbox, stack))


async def run(made, **arguments):
    """Through the toolbox, as in an episode."""
    ((record, result),) = await Toolbox([made], TASK, sandbox=no_sandbox).run([Call(made.name, arguments)])
    return record, result


def properties(made):
    return made.parameters["properties"]


def returning(value):
    @tool
    def give():
        """Give it."""
        return value

    return give


class Size(enum.Enum):
    SMALL = "small"
    LARGE = "large"


@dataclass
class Point:
    x: int
    y: int = 0


class Place(BaseModel):
    name: str
    point: Point


# What the schema says.


@pytest.mark.parametrize(
    ("hint", "schema"),
    [
        (str, {"type": "string"}),
        (int, {"type": "integer"}),
        (float, {"type": "number"}),
        (bool, {"type": "boolean"}),
        (list[int], {"type": "array", "items": {"type": "integer"}}),
        (dict[str, int], {"type": "object", "additionalProperties": {"type": "integer"}}),
        (dict, {"type": "object", "additionalProperties": True}),
        (Literal["left", "right"], {"type": "string", "enum": ["left", "right"]}),
        (str | None, {"anyOf": [{"type": "string"}, {"type": "null"}]}),
        (Any, {}),
        (Annotated[int, Field(ge=1, description="How many.")], {"type": "integer", "minimum": 1, "description": "How many."}),
    ],
    ids=str,
)
def test_each_type_has_its_json_schema(hint, schema):
    def function(argument):
        """Do it."""

    function.__annotations__["argument"] = hint
    made = tool(function)
    assert properties(made) == {"argument": schema}
    assert made.parameters["required"] == ["argument"]


def test_an_argument_with_a_default_is_not_required_and_shows_it():
    @tool
    def crop(left: int, factor: float = 2.0, label: Optional[str] = None):  # noqa: UP045  as users write it
        """Crop."""

    assert crop.parameters["required"] == ["left"]
    assert (properties(crop)["factor"]["default"], properties(crop)["label"]["default"]) == (2.0, None)


def test_a_function_without_arguments_has_an_empty_object():
    assert returning(1).parameters == {"type": "object", "properties": {}}


def test_an_enum_shows_its_values():
    @tool
    def scale(size: Size):
        """Scale."""

    assert scale.parameters["$defs"]["Size"]["enum"] == ["small", "large"]


def test_google_docstrings_describe_tool_and_arguments():
    @tool
    def look(where: str, closely: bool = False):
        """Look somewhere.

        It takes a moment.

        Args:
            where: Which corner.
            closely: Whether
                to take time.

        Returns:
            What is there.
        """

    assert look.description == "Look somewhere.\nIt takes a moment."
    assert [one["description"] for one in properties(look).values()] == ["Which corner.", "Whether\nto take time."]


def test_numpy_docstrings_describe_tool_and_arguments():
    @tool
    def look(where: str):
        """Look somewhere.

        Parameters
        ----------
        where : str
            Which corner.

        Returns
        -------
        str
            What is there.
        """

    assert look.description == "Look somewhere."
    assert properties(look)["where"]["description"] == "Which corner."


def test_a_docstring_without_arguments_keeps_the_description_of_a_field():
    @tool
    def look(where: Annotated[str, Field(description="Which corner.")]):
        """Look somewhere."""

    assert properties(look)["where"]["description"] == "Which corner."


def test_a_function_without_a_docstring_is_a_tool_all_the_same():
    @tool
    def bare(text: str):
        return text

    assert (bare.name, bare.description) == ("bare", "")


def test_the_guide_is_openais_form():
    @tool
    def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    assert add.guide.schema == {
        "type": "function",
        "function": {
            "name": "add",
            "description": "Add two numbers.",
            "parameters": {
                "type": "object",
                "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
                "required": ["a", "b"],
            },
        },
    }


@pytest.mark.parametrize("name", ["schema", "json", "copy", "model_config", "model_dump", "_private", "title", "self_", "cls"])
async def test_an_argument_may_be_called_like_something_of_pydantics(name):
    space = {}
    exec(f"def echo({name}: str):\n    return {name}", space)
    made = tool(space["echo"])
    assert list(properties(made)) == [name]
    assert (await call(made, **{name: "x"})).text == "x"


# Names.


def test_a_tool_is_called_like_its_function():
    assert returning(1).name == "give"


def test_a_name_may_be_given():
    @tool(name="look_up", timeout_s=3.0)
    def function():
        """Look it up."""

    assert (function.name, function.call_name, function.timeout_s) == ("look_up", "look_up", 3.0)


@pytest.mark.parametrize("name", ["look up", "suche_ä", "x" * 65, "a:b"])
def test_a_name_that_no_api_takes_is_refused(name):
    with pytest.raises(UsageError, match=r"tool\(name="):
        tool(name=name)(lambda: 1)


def test_a_lambda_needs_a_name():
    with pytest.raises(UsageError, match="lambda"):
        tool(lambda: 1)


def test_attributes_of_a_function_do_not_become_the_tools():
    def function():
        """Do it."""

    function.call = function.instructions = function.needs = "mine"
    made = tool(function)
    assert (made.instructions, made.needs) == (None, ())


# Wrong arguments.


@tool
def search(query: str, top_k: int = 3, side: Literal["Left", "Right"] = "Left") -> str:
    """Search."""
    return f"{query!r} {top_k!r} {side!r}"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({}, "query: field required"),
        ({"query": ["x"]}, "query: input should be a valid string"),
        ({"query": "x", "top_k": "many"}, "top_k: input should be a valid integer"),
        ({"query": "x", "top_k": 1.5}, "top_k: "),
        ({"query": "x", "side": "left"}, "side: input should be 'Left' or 'Right'"),
        ({"query": None}, "query: "),
        ({"query": "x", "limit": 3}, "limit: extra inputs are not permitted"),
        ({"argument_0": "x"}, "argument_0: extra inputs are not permitted"),
    ],
    ids=str,
)
async def test_wrong_arguments_are_an_error_that_names_them_and_the_remedy(arguments, named):
    result = await call(search, **arguments)
    assert result.status is ToolStatus.ERROR
    assert "Wrong arguments for search" in result.text
    assert named in result.text
    assert '"top_k"' in result.text


async def test_all_wrong_arguments_are_named_at_once():
    text = (await call(search, top_k="many", limit=1)).text
    assert all(name in text for name in ("query: ", "top_k: ", "limit: "))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"query": "x", "top_k": "5"}, "'x' 5 'Left'"),
        ({"query": "x", "top_k": 5.0}, "'x' 5 'Left'"),
        ({"query": 90210}, "'90210' 3 'Left'"),
    ],
    ids=str,
)
async def test_a_value_that_means_the_same_is_taken(arguments, text):
    assert (await call(search, **arguments)).text == text


async def test_a_mistake_inside_an_object_is_named_by_its_path():
    @tool
    def go(place: Place):
        """Go."""

    assert "place.point.x: " in (await call(go, place={"name": "n", "point": {"x": "east"}})).text


async def test_objects_arrive_as_what_they_were_declared():
    @tool
    def go(place: Place, via: list[Point], size: Size = Size.SMALL):
        """Go."""
        return f"{type(place).__name__} {type(place.point).__name__} {via[0].x} {size.name}"

    place = {"name": "n", "point": {"x": 1}}
    assert (await call(go, place=place, via=[{"x": 4}], size="large")).text == "Place Point 4 LARGE"


async def test_a_default_that_a_call_changed_is_whole_again():
    @tool
    def collect(into: list[int] = [0]):  # noqa: B006  users write it
        """Collect."""
        into.append(1)
        return into

    assert [(await call(collect)).text for _ in range(2)] == ["[0, 1]", "[0, 1]"]


# What comes back.


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("text", "text"),
        (5, "5"),
        (2.5, "2.5"),
        (True, "true"),
        (None, "(no output)"),
        ((), "(no output)"),
        ({"a": [1, "ä"]}, '{"a": [1, "ä"]}'),
        ([1, 2], "[1, 2]"),
        (("one", 2, None), "one\n2"),
        (np.int64(5), "5"),
        (np.float32(0.5), "0.5"),
        (np.arange(3), "[0, 1, 2]"),
        ({"n": np.int64(5)}, '{"n": 5}'),
        ({(1, 2): 3}, '{"1,2": 3}'),
        (Point(1, 2), '{"x": 1, "y": 2}'),
        (Place(name="n", point=Point(1)), '{"name": "n", "point": {"x": 1, "y": 0}}'),
        (Size.LARGE, '"large"'),
        ({"not json": object}, None),
        (float("nan"), "NaN"),
    ],
    ids=str,
)
async def test_what_a_function_returns_becomes_text(value, text):
    result = await call(returning(value))
    assert result.status is ToolStatus.OK
    assert text is None or result.text == text


RED = Image.new("RGB", (4, 3), "red")
PIXELS = np.zeros((3, 4, 3), np.uint8)


@pytest.mark.parametrize(
    ("value", "text", "sizes"),
    [
        (RED, "", [(4, 3)]),
        (PIXELS, "", [(4, 3)]),
        (np.zeros((3, 4), np.uint8), "", [(4, 3)]),
        (np.zeros((3, 4, 1), np.uint8), "", [(4, 3)]),
        (("a crop", RED), "a crop", [(4, 3)]),
        ((RED, "between", PIXELS), "between", [(4, 3), (4, 3)]),
        ([RED, PIXELS], "", [(4, 3), (4, 3)]),
    ],
    ids=["PIL", "array", "grey", "one channel", "text and image", "several", "list"],
)
async def test_images_come_back_as_images(value, text, sizes):
    result = await call(returning(value))
    assert (result.text, [image.size for image in result.images]) == (text, sizes)


async def test_a_tool_result_comes_back_as_it_is():
    given = ToolResult("gone", status=ToolStatus.UNAVAILABLE)
    assert await call(returning(given)) is given


@pytest.mark.parametrize(
    "wrong",
    [lambda: ToolResult(5), lambda: ToolResult("", ["file.png"]), lambda: ToolResult("", status="fine"), lambda: ToolResult("", 3)],
)
async def test_a_tool_result_of_other_things_is_refused_inside_the_tool(wrong):
    @tool
    def give():
        """Give it."""
        return wrong()

    assert (await call(give)).status is ToolStatus.ERROR


async def test_a_tool_result_takes_a_list_of_images_and_a_status_by_its_name():
    @tool
    def give():
        """Give it."""
        return ToolResult("", [RED, PIXELS], "error")

    result = await call(give)
    assert (len(result.images), result.status) == (2, ToolStatus.ERROR)


async def test_an_image_file_that_is_cut_off_is_the_tools_error(tmp_path):
    path = tmp_path / "cut.png"
    Image.effect_noise((64, 64), 50).save(path)
    path.write_bytes(path.read_bytes()[:200])

    @tool
    def load() -> Image.Image:
        """Load it."""
        return Image.open(path)

    assert (await call(load)).status is ToolStatus.ERROR


async def test_an_image_without_pixels_is_the_tools_error():
    assert (await call(returning(Image.new("RGB", (0, 5))))).status is ToolStatus.ERROR


# What it raises.


def raising(error):
    @tool
    def fail():
        """Fail."""
        raise error

    return fail


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("too dark"), "ValueError: too dark"),
        (KeyError("x"), "KeyError: 'x'"),
        (TimeoutError("the site"), "TimeoutError: the site"),
        (SystemExit(3), "SystemExit: 3"),
        (StopIteration(), "RuntimeError"),
    ],
    ids=repr,
)
async def test_an_exception_is_an_error_with_its_text(error, text):
    record, result = await run(raising(error))
    assert record.status is ToolStatus.ERROR
    assert result.text.startswith(text)


@pytest.mark.parametrize("error", [ValueError("too dark"), TimeoutError("too dark"), SystemExit("too dark")])
async def test_an_exception_of_an_async_function_is_an_error_too(error):
    @tool
    async def fail():
        """Fail."""
        raise error

    assert (await run(fail))[1] == ToolResult(f"{type(error).__name__}: too dark", status=ToolStatus.ERROR)


async def test_an_infrastructure_error_is_a_failure():
    record, result = await run(raising(InfrastructureError("the GPU fell off the bus")))
    assert (record.status, result.text) == (ToolStatus.FAILURE, "the GPU fell off the bus")


async def test_a_search_that_gives_no_answer_is_unavailable():
    record, result = await run(raising(SearchUnavailable("quota")))
    assert record.status is ToolStatus.UNAVAILABLE
    assert "quota" in result.text


# The episode.


async def test_the_episode_is_filled_in_and_not_shown():
    @tool
    def whose(prefix: str, episode: ToolEpisode) -> str:
        """Say which task this is."""
        return prefix + episode.task.task_id

    assert list(properties(whose)) == ["prefix"]
    assert (await call(whose, prefix="> ")).text == "> task-7"


async def test_a_model_cannot_give_the_episode():
    @tool
    def whose(episode: ToolEpisode) -> str:
        """Say which task this is."""
        return episode.task.task_id

    assert (await call(whose, episode="mine")).status is ToolStatus.ERROR


async def test_the_episode_may_be_optional_so_that_the_function_runs_without():
    @tool
    def whose(episode: ToolEpisode | None = None) -> str:
        """Say which task this is."""
        return "nobody's" if episode is None else episode.task.task_id

    assert (properties(whose), whose()) == ({}, "nobody's")
    assert (await call(whose)).text == "task-7"


# Deadlines and threads.


async def test_a_function_that_hangs_ends_at_its_deadline():
    over = threading.Event()

    @tool(timeout_s=0.05)
    def hang():
        """Hang."""
        over.wait(20)

    record, result = await run(hang)
    over.set()
    assert record.status is ToolStatus.TIMEOUT
    assert "0.05 s" in result.text


async def test_an_async_function_that_hangs_is_cancelled_at_its_deadline():
    cancelled = asyncio.Event()

    @tool(timeout_s=0.05)
    async def hang():
        """Hang."""
        try:
            await asyncio.sleep(20)
        finally:
            cancelled.set()

    record, _ = await run(hang)
    assert record.status is ToolStatus.TIMEOUT
    assert cancelled.is_set()


async def test_functions_that_hang_hold_up_nobody():
    """More of them than there are threads at a time: each gives its place back at its deadline."""
    over = threading.Event()

    @tool(timeout_s=0.05)
    def hang():
        """Hang."""
        over.wait(20)

    await asyncio.gather(*(run(hang) for _ in range(40)))
    assert (await run(returning("alive")))[1].text == "alive"
    over.set()


async def test_a_plain_function_leaves_the_event_loop_free():
    ticked = threading.Event()

    @tool
    def wait():
        """Wait for the loop."""
        return ticked.wait(10)

    running = asyncio.create_task(call(wait))
    await asyncio.sleep(0)
    asyncio.get_running_loop().call_later(0.01, ticked.set)
    assert (await running).text == "true"


async def test_an_async_function_runs_in_the_event_loop():
    @tool
    async def where():
        """Say which thread this is."""
        return threading.current_thread() is threading.main_thread()

    assert (await call(where)).text == "true"


# Signatures that cannot be used.


def positional(*values: int): ...
def keywords(**values: int): ...
def positional_only(value: int, /): ...
def untyped(value): ...
def half_typed(query: str, value=3): ...
def an_image(value: Image.Image): ...
def an_array(value: np.ndarray): ...
def a_callable(value: threading.Thread): ...
def an_unknown(value: "Nowhere"): ...  # noqa: F821
def a_field(value: int = Field(3, ge=1)): ...


@pytest.mark.parametrize(
    ("function", "named"),
    [
        (positional, "values"),
        (keywords, "values"),
        (positional_only, "value"),
        (untyped, "value: str"),
        (half_typed, "value: str"),
        (an_image, "value of the type Image"),
        (an_array, "value of the type ndarray"),
        (a_callable, "value of the type Thread"),
        (an_unknown, "Nowhere"),
        (a_field, "Annotated"),
        (max, "signature"),
        (future_functions.unknown_type, "Decimal"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_signature_of_which_no_schema_can_be_made_is_refused_in_one_line(function, named):
    with pytest.raises(UsageError) as refusal:
        tool(function)
    assert getattr(function, "__name__", "") in str(refusal.value)
    assert named in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("thing", ["name", 5])
def test_what_is_no_function_is_refused(thing):
    with pytest.raises(UsageError, match=r"@tool\(name="):
        tool(thing)


def test_a_method_inside_its_class_is_refused_with_the_remedy():
    with pytest.raises(UsageError, match="bound method"):

        class Desk:
            @tool
            def open(self, drawer: str):
                """Open a drawer."""


# Other callables.


class Desk:
    """A desk."""

    def __init__(self, owner):
        self.owner = owner

    def open(self, drawer: str) -> str:
        """Open a drawer."""
        return f"{self.owner}'s {drawer}"

    @staticmethod
    def shut(drawer: str) -> str:
        """Shut a drawer."""
        return drawer

    @classmethod
    def build(cls, drawers: int) -> str:
        """Build a desk."""
        return f"{cls.__name__} {drawers}"


class Adder:
    """Add to a number."""

    def __init__(self, to):
        self.to = to

    def __call__(self, number: int) -> int:
        return self.to + number


class AsyncAdder(Adder):
    async def __call__(self, number: int) -> int:
        return self.to + number


@pytest.mark.parametrize("name", ["open", "shut"])
async def test_a_bound_or_static_method_is_a_tool(name):
    made = tool(getattr(Desk("Ann"), name))
    assert (made.name, list(properties(made))) == (name, ["drawer"])
    assert (await call(made, drawer="top")).text.endswith("top")


async def test_a_class_method_is_a_tool():
    assert (await call(tool(Desk.build), drawers=3)).text == "Desk 3"


@pytest.mark.parametrize("kind", [Adder, AsyncAdder])
async def test_an_object_that_can_be_called_is_a_tool(kind):
    made = tool(kind(40))
    assert (made.name, list(properties(made))) == (kind.__name__, ["number"])
    assert (await call(made, number=2)).text == "42"


def test_an_object_is_described_by_its_class():
    assert tool(Adder(1)).description == "Add to a number."


async def test_a_partial_hides_what_it_has_bound():
    def query(key: str, text: str, top_k: int = 3) -> str:
        """Ask the service."""
        return f"{key} {text} {top_k}"

    made = tool(functools.partial(query, "SECRET", top_k=9))
    assert (made.name, made.description, list(properties(made))) == ("query", "Ask the service.", ["text"])
    assert (await call(made, text="x")).text == "SECRET x 9"
    assert (await call(made, text="x", top_k=1)).status is ToolStatus.ERROR


async def test_a_partial_of_an_async_function_is_awaited():
    async def query(key: str, text: str) -> str:
        """Ask the service."""
        return key + text

    assert (await call(tool(functools.partial(query, key="K")), text="x")).text == "Kx"


async def test_a_wrapped_function_keeps_its_signature():
    def logged(function):
        @functools.wraps(function)
        def inner(*arguments, **options):
            return function(*arguments, **options)

        return inner

    @tool
    @logged
    async def query(text: str) -> str:
        """Ask the service."""
        return text

    assert list(properties(query)) == ["text"]
    assert (await call(query, text="x")).text == "x"


def test_a_tool_is_still_the_function():
    @tool
    def add(a: int, b: int = 1) -> int:
        """Add two numbers."""
        return a + b

    assert (add(2), add(2, b=3), add.__name__, add.__doc__) == (3, 5, "add", "Add two numbers.")
    assert isinstance(add, Tool)


async def test_a_module_with_postponed_annotations_works():
    made = future_functions.zoom
    assert (await call(made, box={"left": 3, "top": 4}, side="left")).text == "Box 3 2 left"
    assert (await call(made, box={"left": 3, "top": 4}, factor=0)).status is ToolStatus.ERROR
    assert (await call(future_functions.whose)).text == "task-7"


async def test_one_tool_serves_episodes_at_the_same_time():
    @tool
    def wait(number: int) -> int:
        """Wait a moment."""
        time.sleep(0.01)
        return number

    results = await asyncio.gather(*(run(wait, number=number) for number in range(8)))
    assert [result.text for _, result in results] == list(map(str, range(8)))
