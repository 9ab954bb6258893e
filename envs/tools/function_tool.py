"""`@tool`: a tool made of a typed Python function; its schema comes from the signature, its description from the docstring."""

from __future__ import annotations

import functools
import inspect
import json
import re
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, get_args, get_type_hints, overload

import docstring_parser
import numpy as np
from PIL import Image
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, create_model
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from envs.errors import InfrastructureError, SearchUnavailable, UsageError
from envs.runtime.loops import PerLoop
from envs.runtime.threads import Threads
from envs.tools.tool import Tool, ToolEpisode
from envs.types import ToolResult, ToolStatus

_BLOCKING_CALLS = 512  # more than a worker has episodes: a wait for a thread would count against the tool's deadline
_threads = PerLoop(lambda: Threads(_BLOCKING_CALLS))
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")  # what OpenAI's API takes


class FunctionTool(Tool):
    """A tool made of a function: see `tool`."""

    def __init__(self, function: Callable[..., Any], name: str | None, timeout_s: float | None, needs: tuple[str, ...]) -> None:
        described = _described(function)
        # Without the function's own attributes, whose names might clash with the tool's.
        functools.update_wrapper(self, function, updated=())
        self.name = name = name or getattr(described, "__name__", "tool")
        if not _NAME.fullmatch(name):
            raise UsageError(f"tool {name}: write a name of letters, digits, _ and -, at most 64, as in tool(name='look_up')")
        self.timeout_s, self.needs = timeout_s, needs
        self._function = function
        self._is_async = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(_call_of(function))
        documented = docstring_parser.parse(inspect.getdoc(described) or "")
        self.description = "\n".join(part for part in (documented.short_description, documented.long_description) if part)
        descriptions = {parameter.arg_name: parameter.description for parameter in documented.params}
        hints, fields = _hints(described, name), {}
        self._episode_parameter: str | None = None
        self._fields: dict[str, str] = {}
        for parameter in _parameters(function, name):
            if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                raise UsageError(f"tool {name}: {parameter} cannot be called by name: write ordinary parameters")
            if parameter.name not in hints:
                bound = "make it of a bound method, as in tool(thing.method)" if parameter.name == "self" else ""
                remedy = bound or f"write the type of its parameter {parameter.name}, as in {parameter.name}: str"
                raise UsageError(f"tool {name}: {remedy}")
            hint = hints[parameter.name]
            if hint is ToolEpisode or ToolEpisode in get_args(hint):
                self._episode_parameter = parameter.name
                continue
            # The fields have generated names: a parameter's own name may clash with an attribute of pydantic's models.
            field = f"argument_{len(fields)}"
            self._fields[parameter.name] = field
            fields[field] = (hint, _field(parameter, hint, descriptions.get(parameter.name), name))
        # An argument that the function does not have is a mistake that the model should see.
        config = ConfigDict(extra="forbid", coerce_numbers_to_str=True)
        self._arguments = create_model(name, __config__=config, **fields)
        self.parameters = _plain(self._arguments.model_json_schema())

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """The function itself."""
        return self._function(*arguments, **options)

    async def call(self, arguments: Mapping[str, Any], episode: ToolEpisode) -> ToolResult:
        try:
            checked = self._arguments.model_validate(dict(arguments))
        except ValidationError as error:
            return ToolResult(self._remedy(error), status=ToolStatus.ERROR)
        values = {name: getattr(checked, field) for name, field in self._fields.items()}
        if self._episode_parameter is not None:
            values[self._episode_parameter] = episode
        try:
            if self._is_async:
                returned = await self._function(**values)
            else:
                returned = await _threads.get().run(self._function, **values)
                if inspect.isawaitable(returned):
                    returned = await returned
            return _result(returned)
        except InfrastructureError:
            raise
        except SearchUnavailable as error:
            return ToolResult(f"{self.call_name} is not available: {error}", status=ToolStatus.UNAVAILABLE)
        except (Exception, SystemExit) as error:
            return ToolResult(f"{type(error).__name__}: {error}", status=ToolStatus.ERROR)

    def _remedy(self, error: ValidationError) -> str:
        wrong = "; ".join(
            f"{'.'.join(map(str, problem['loc'])) or 'arguments'}: {problem['msg'][:1].lower()}{problem['msg'][1:]}"
            for problem in error.errors()
        )
        return f"Wrong arguments for {self.call_name} ({wrong}). They are: {json.dumps(self.parameters, ensure_ascii=False)}"


@overload
def tool(function: Callable[..., Any], /) -> FunctionTool: ...


@overload
def tool(
    *, name: str | None = None, timeout_s: float | None = 30.0, needs: tuple[str, ...] = ()
) -> Callable[[Callable[..., Any]], FunctionTool]: ...


def tool(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    timeout_s: float | None = 30.0,
    needs: tuple[str, ...] = (),
) -> FunctionTool | Callable[[Callable[..., Any]], FunctionTool]:
    """Make a tool of a function whose parameters have types that JSON can hold; it may be async.

    The model sees the function's name, its docstring (Google, NumPy, ReST or Epydoc style) and its parameters. The function returns
    text, a number, anything that JSON can hold, an image (PIL's, or a uint8 array), a tuple of these, or a `ToolResult`. An
    exception is shown to the model as an error, with two exceptions: after InfrastructureError the episode is run again, and
    SearchUnavailable is shown as an unavailable tool. A parameter of the type `ToolEpisode` is filled in and not shown, like the
    arguments that a `functools.partial` has bound. A plain function runs on a thread. A call ends after `timeout_s` seconds.
    Raises UsageError if no schema can be made of the signature.
    """

    def make(function: Callable[..., Any]) -> FunctionTool:
        if not callable(function):
            raise UsageError(f"tool: {function!r} is not a function; write a name as @tool(name=…)")
        return FunctionTool(function, name, timeout_s, needs)

    return make if function is None else make(function)


def _described(function: Callable[..., Any]) -> Any:
    """The object that has a callable's name, docstring and types: the function of a partial, the class of an object."""
    while isinstance(function, functools.partial):
        function = function.func
    return function if hasattr(function, "__name__") else type(function)


def _call_of(function: Callable[..., Any]) -> Any:
    return getattr(type(function), "__call__", None)  # noqa: B004  the method itself is wanted, not whether there is one


def _parameters(function: Callable[..., Any], name: str) -> list[inspect.Parameter]:
    """The parameters that a model may give."""
    bound: set[str] = set()
    try:
        parameters = inspect.signature(function).parameters.values()
    except (ValueError, TypeError):
        raise UsageError(f"tool {name}: it has no signature: write a Python function around it") from None
    while isinstance(function, functools.partial):
        bound |= function.keywords.keys()
        function = function.func
    return [parameter for parameter in parameters if parameter.name not in bound]


def _hints(described: Any, name: str) -> dict[str, Any]:
    """The types of the parameters; the type of the result may be unknown."""
    function = described
    if isinstance(described, type):
        function = described.__dict__.get("__call__") or getattr(described, "__call__")  # noqa: B004, B009
    function = inspect.unwrap(function)
    annotated = {parameter: hint for parameter, hint in getattr(function, "__annotations__", {}).items() if parameter != "return"}
    try:
        return get_type_hints(
            SimpleNamespace(__annotations__=annotated), globalns=getattr(function, "__globals__", {}), include_extras=True
        )
    except NameError as error:
        raise UsageError(f"tool {name}: {error}: import or define the types of its parameters at the top of its module") from None


def _field(parameter: inspect.Parameter, hint: Any, description: str | None, name: str) -> Any:
    try:
        TypeAdapter(hint).json_schema()
    except Exception:
        shown = getattr(hint, "__name__", None) or str(hint)
        raise UsageError(
            f"tool {name}: JSON cannot hold its parameter {parameter.name} of the type {shown}: write str, int, float, bool, list, "
            "dict, Literal, a dataclass or a pydantic model"
        ) from None
    if isinstance(parameter.default, FieldInfo):
        raise UsageError(f"tool {name}: write {parameter.name}: Annotated[…, Field(…)], with the default behind it")
    default = ... if parameter.default is parameter.empty else parameter.default
    # A description of None would hide that of an Annotated type.
    options: dict[str, Any] = {} if description is None else {"description": description}
    return Field(default, alias=parameter.name, **options)


def _result(returned: Any) -> ToolResult:
    if isinstance(returned, ToolResult):
        return returned
    listed = isinstance(returned, tuple) or (isinstance(returned, list) and any(map(_is_image, returned)))
    parts = [part for part in (returned if listed else (returned,)) if part is not None]
    texts = [part if isinstance(part, str) else _json(part) for part in parts if not _is_image(part)]
    images = tuple(part for part in parts if _is_image(part))
    return ToolResult("\n".join(texts) if texts or images else "(no output)", images)


def _is_image(part: Any) -> bool:
    return isinstance(part, Image.Image) or (isinstance(part, np.ndarray) and part.dtype == np.uint8 and part.ndim in (2, 3))


def _json(value: Any) -> str:
    def plain(other: Any) -> Any:
        return other.tolist() if isinstance(other, np.ndarray | np.generic) else str(other)

    return json.dumps(to_jsonable_python(value, fallback=plain), ensure_ascii=False)


def _plain(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema without pydantic's titles and `additionalProperties`, which only cost a model tokens."""
    kept = {key: value for key, value in schema.items() if key not in ("title", "additionalProperties", "description")}
    properties = {
        name: {key: value for key, value in one.items() if key != "title"} for name, one in kept.get("properties", {}).items()
    }
    return kept | {"properties": properties}
