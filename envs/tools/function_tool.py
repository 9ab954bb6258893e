"""`@tool`: a tool made of a typed Python function; its schema comes from the signature, its description from the docstring."""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable, Mapping
from typing import Any, get_type_hints, overload

import docstring_parser
import numpy as np
from PIL import Image
from pydantic import ConfigDict, Field, ValidationError, create_model

from envs.errors import InfrastructureError, UsageError
from envs.runtime.loops import PerLoop
from envs.runtime.threads import Threads
from envs.tools.tool import Tool, ToolEpisode
from envs.types import ToolResult, ToolStatus

_BLOCKING_CALLS = 32
_threads = PerLoop(lambda: Threads(_BLOCKING_CALLS))


class FunctionTool(Tool):
    """See `tool`."""

    def __init__(self, function: Callable[..., Any], name: str, timeout_s: float | None, needs: tuple[str, ...]) -> None:
        functools.update_wrapper(self, function)
        self.name, self.timeout_s, self.needs = name, timeout_s, needs
        self._function = function
        documented = docstring_parser.parse(inspect.getdoc(function) or "")
        self.description = "\n".join(part for part in (documented.short_description, documented.long_description) if part)
        said = {parameter.arg_name: parameter.description for parameter in documented.params}
        hints = get_type_hints(function, include_extras=True)
        fields: dict[str, Any] = {}
        self._episode_parameter: str | None = None
        for parameter in inspect.signature(function).parameters.values():
            if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                raise UsageError(f"tool {name}: {parameter} cannot be called by name: write ordinary parameters")
            if parameter.name not in hints:
                raise UsageError(f"tool {name}: write the type of its parameter {parameter.name}, as in {parameter.name}: str")
            if hints[parameter.name] is ToolEpisode:
                self._episode_parameter = parameter.name
                continue
            default = ... if parameter.default is parameter.empty else parameter.default
            fields[parameter.name] = (hints[parameter.name], Field(default, description=said.get(parameter.name)))
        # An argument that the function does not have is a mistake that the model should hear of.
        self._arguments = create_model(name, __config__=ConfigDict(extra="forbid", arbitrary_types_allowed=False), **fields)
        self.parameters = _plain(self._arguments.model_json_schema())

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """The function itself."""
        return self._function(*arguments, **options)

    async def call(self, arguments: Mapping[str, Any], episode: ToolEpisode) -> ToolResult:
        try:
            checked = self._arguments.model_validate(dict(arguments))
        except ValidationError as error:
            return ToolResult(self._remedy(error), status=ToolStatus.ERROR)
        values = {name: getattr(checked, name) for name in type(checked).model_fields}
        if self._episode_parameter is not None:
            values[self._episode_parameter] = episode
        try:
            if inspect.iscoroutinefunction(self._function):
                returned = await self._function(**values)
            else:
                returned = await _threads.get().run(self._function, **values)
            return _result(returned)
        except InfrastructureError:
            raise
        except Exception as error:
            return ToolResult(f"{type(error).__name__}: {error}", status=ToolStatus.ERROR)

    def _remedy(self, error: ValidationError) -> str:
        wrong = "; ".join(
            f"{'.'.join(map(str, problem['loc'])) or 'arguments'}: {problem['msg'].lower()}" for problem in error.errors()
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
    """Make a tool of a function whose parameters have types that JSON knows; it may be async.

    The model sees the function's name, its docstring (Google, NumPy, ReST or Epydoc style) and its parameters. The function returns
    text, a number, anything that JSON takes, an image (PIL's, or a uint8 array), a tuple of these, or a `ToolResult`; what it
    raises is shown to the model as an error, except InfrastructureError, after which the episode is run again. A parameter of the
    type `ToolEpisode` is filled in and not shown. A plain function runs on a thread. A call ends after `timeout_s` seconds.
    Raises UsageError for a signature that no schema can be made of.
    """

    def make(function: Callable[..., Any]) -> FunctionTool:
        return FunctionTool(function, name or getattr(function, "__name__", "tool"), timeout_s, needs)

    return make if function is None else make(function)


def _result(returned: Any) -> ToolResult:
    if isinstance(returned, ToolResult):
        return returned
    texts, images = [], []
    for part in returned if isinstance(returned, tuple) else (returned,):
        if isinstance(part, np.ndarray) and part.dtype == np.uint8 and part.ndim in (2, 3):
            part = Image.fromarray(part)
        if isinstance(part, Image.Image):
            images.append(part)
        elif isinstance(part, str):
            texts.append(part)
        elif part is not None:
            texts.append(json.dumps(part, ensure_ascii=False, default=str))
    return ToolResult("\n".join(texts) if texts or images else "(no output)", tuple(images))


def _plain(schema: dict[str, Any]) -> dict[str, Any]:
    """Without pydantic's titles and its word on further properties, which only cost a model tokens."""
    kept = {key: value for key, value in schema.items() if key not in ("title", "additionalProperties", "description")}
    properties = {
        name: {key: value for key, value in one.items() if key != "title"} for name, one in kept.get("properties", {}).items()
    }
    return kept | {"properties": properties}
