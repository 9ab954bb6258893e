"""Tools as a user's module has them that postpones its annotations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from envs import Tool, ToolEpisode, ToolResult, tool

if TYPE_CHECKING:
    from decimal import Decimal


@dataclass
class Box:
    """A rectangle in pixels."""

    left: int
    top: int


@tool
def zoom(box: Box, factor: Annotated[int, Field(ge=1)] = 2, side: Literal["left", "right"] | None = None) -> Decimal:
    """Zoom in."""
    return f"{type(box).__name__} {box.left} {factor} {side}"


@tool
def whose(episode: ToolEpisode) -> str:
    """Say which task this is."""
    return episode.task.task_id


def unknown_type(amount: Decimal) -> str:
    """Its type is not there when the module runs."""
    return str(amount)


def shout(text: str) -> str:
    """Say it loudly."""
    return text.upper()


class Echo(Tool):
    """A tool that keeps count in its episode."""

    name = "echo"
    description = "Say it back."

    async def call(self, arguments, episode):
        episode.state["count"] = episode.state.get("count", 0) + 1
        return ToolResult(f"{arguments.get('text', '')} {episode.state['count']}")


class Needy(Tool):
    """It cannot be made without an argument."""

    name = "needy"

    def __init__(self, key):
        self.key = key

    async def call(self, arguments, episode):
        return ToolResult(self.key)


class Nameless(Tool):
    """It forgot its name."""

    async def call(self, arguments, episode):
        return ToolResult()


class Unfinished(Tool):
    """It forgot its `call`."""

    name = "unfinished"


ready = Echo()
number = 5
