"""Tool-use tasks as Gymnasium environments; importing this package registers them.

The names in `__all__` are stable: a change to them comes with a line in the CHANGELOG that says how to follow. Each is imported
when it is first used (PEP 562), so that a command that refuses its settings has not waited for all of them.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from envs.worlds.ids import register

if TYPE_CHECKING:
    from envs.protocols import Answer, Call, Calls, Malformed, Protocol
    from envs.rewards import DeepEyesReward, GroupMember, group_part
    from envs.scoring import Scoring
    from envs.tool_env import ToolEnv
    from envs.tools.function_tool import tool
    from envs.tools.tool import Tool, ToolEpisode
    from envs.types import Observation, Outcome, Task, ToolCall, ToolResult, ToolStatus
    from envs.worlds.registry import count_rows, questions_of, resolve, row_numbers

__all__ = [
    "Answer",
    "Call",
    "Calls",
    "DeepEyesReward",
    "GroupMember",
    "Malformed",
    "Observation",
    "Outcome",
    "Protocol",
    "Scoring",
    "Task",
    "Tool",
    "ToolCall",
    "ToolEnv",
    "ToolEpisode",
    "ToolResult",
    "ToolStatus",
    "count_rows",
    "group_part",
    "questions_of",
    "resolve",
    "row_numbers",
    "tool",
]

_MODULES = {
    "envs.protocols": ("Answer", "Call", "Calls", "Malformed", "Protocol"),
    "envs.rewards": ("DeepEyesReward", "GroupMember", "group_part"),
    "envs.scoring": ("Scoring",),
    "envs.tool_env": ("ToolEnv",),
    "envs.tools.function_tool": ("tool",),
    "envs.tools.tool": ("Tool", "ToolEpisode"),
    "envs.types": ("Observation", "Outcome", "Task", "ToolCall", "ToolResult", "ToolStatus"),
    "envs.worlds.registry": ("count_rows", "questions_of", "resolve", "row_numbers"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> object:
    """A name of `__all__`, from its module; from then on it is an attribute of the package."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_MODULE_OF[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


register()
