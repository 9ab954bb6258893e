"""Tool-use tasks as Gymnasium environments; importing this package registers them.

The names in `__all__` are stable: a change to them comes with a line in the CHANGELOG that says how to follow.
"""

from envs.protocols import Answer, Call, Calls, Malformed, Protocol
from envs.rewards import DeepEyesReward, GroupMember, group_part
from envs.scoring import Scoring
from envs.tool_env import ToolEnv
from envs.tools.function_tool import tool
from envs.tools.tool import Tool, ToolEpisode
from envs.types import Observation, Outcome, Task, ToolCall, ToolResult, ToolStatus
from envs.worlds.registry import count_rows, questions_of, register, resolve, row_numbers

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

register()
