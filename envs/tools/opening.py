"""Opens the tools that the setting `tools=` names: built-in names, import paths, functions, tools, and MCP servers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from envs.errors import UsageError
from envs.runtime.imports import load, unknown
from envs.search.backends import open_image_search, open_text_search
from envs.search.types import ImageSearch, TextSearch
from envs.tools.code import CodeTool
from envs.tools.function_tool import tool
from envs.tools.image_search import ImageSearchTool
from envs.tools.mcp_server import McpServer
from envs.tools.text_search import TextSearchTool
from envs.tools.tool import Tool

ToolSetting = str | Tool | Callable[..., Any] | Mapping[str, Any]
"""A built-in tool's name, `module:name`, a `Tool`, a typed function, or `{"mcp": {…}}`."""


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """Settings of the built-in searches: each a search object, or the settings of one as in `envs.search.backends`."""

    text_search: TextSearch | str | Mapping[str, Any] | None = None
    image_search: ImageSearch | str | Mapping[str, Any] | None = None
    top_k: int = 5
    search_s: float = 30.0


def _text_search(options: SearchOptions) -> Tool | None:
    search = open_text_search(options.text_search)
    return None if search is None else TextSearchTool(search, options.top_k, options.search_s)


def _image_search(options: SearchOptions) -> Tool | None:
    search = open_image_search(options.image_search)
    return None if search is None else ImageSearchTool(search, options.top_k, options.search_s)


BUILT_IN: Mapping[str, Callable[[SearchOptions], Tool | None]] = {
    "code": lambda options: CodeTool(),
    "text_search": _text_search,
    "image_search": _image_search,
}
"""The factories of the built-in tools; one returns None if it has nothing to search in."""


def open_tools(settings: Sequence[ToolSetting] | None, options: SearchOptions) -> list[Tool | McpServer]:
    """The tools that `settings` name; None gives all built-in tools but the searches that have nothing to search in.

    An `McpServer` stands for the tools that it lists when it is started. Raises UsageError if a tool does not exist or has nothing
    to search in, or if two tools have one name.
    """
    if settings is None:
        return [made for make in BUILT_IN.values() if (made := make(options)) is not None]
    _require_list(settings)
    opened = [_open(setting, options) for setting in settings]
    require_different(made for made in opened if isinstance(made, Tool))
    return opened


def _require_list(settings: Any) -> None:
    if isinstance(settings, str | Mapping) or not isinstance(settings, Iterable):
        raise UsageError(f"tools={_shown(settings)}: write a list, as in tools=[{_shown(settings)}]")


def _shown(setting: Any) -> str:
    name = getattr(setting, "name", None) or getattr(setting, "__name__", None)
    return name if isinstance(name, str) else str(setting)


def require_different(tools: Any) -> None:
    """Raises UsageError if two tools have the same name."""
    names: dict[str, Tool] = {}
    for made in tools:
        for name in {made.name, made.call_name}:
            if name in names:
                raise UsageError(f"two tools are called {name!r}: give one of them another name")
            names[name] = made


def named_tools(settings: Sequence[ToolSetting] | None) -> frozenset[str] | None:
    """The names by which rows of a file may call tools: the built-in ones and those in `settings`.

    None if any name may be valid, since a server lists its tools later. Raises UsageError as `open_tools` does.
    """
    if settings is not None:
        _require_list(settings)
    names = set(BUILT_IN)
    for setting in settings or ():
        if isinstance(setting, Mapping):
            return None
        if not isinstance(setting, str) or ":" in setting:
            made = _open(setting, SearchOptions())
            if isinstance(made, Tool):
                names.add(made.name)
    return frozenset(names)


def _open(setting: ToolSetting, options: SearchOptions) -> Tool | McpServer:
    if isinstance(setting, Mapping):
        if set(setting) != {"mcp"}:
            raise UsageError(f"tools has {dict(setting)}: write {{mcp: {{command: […]}}}} or {{mcp: {{url: …}}}}")
        return McpServer.open(setting["mcp"])
    if isinstance(setting, str) and ":" in setting:
        setting = load(setting, "tools")
    if isinstance(setting, str):
        make = BUILT_IN.get(setting)
        if make is None:
            raise unknown("tools", setting, BUILT_IN)
        made = make(options)
        if made is None:
            raise UsageError(f"the tool {setting} has nothing to search in: give {setting}=… as well")
        return made
    if isinstance(setting, type) and issubclass(setting, Tool):
        try:
            setting = setting()
        except TypeError as error:
            raise UsageError(f"the tool {setting.__name__} cannot be created: {error}; write an instance of it") from error
    if isinstance(setting, Tool):
        if not isinstance(getattr(setting, "name", None), str):
            raise UsageError(f'the tool {type(setting).__name__} has no name: write name = "…" in its class')
        return setting
    if callable(setting):
        return tool(setting)
    raise UsageError(f"{setting!r} is not a tool: write a name, module:name, a function with typed parameters, or a Tool")
