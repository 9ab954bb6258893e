"""The base class of tools, and the part of an episode that a tool sees. A custom tool is one subclass or one function (`@tool`)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from envs.protocols.protocol import ToolGuide
from envs.types import Task, ToolResult
from sandbox import Pool

SANDBOX = "sandbox"
"""The entry of `needs` for a tool that runs the model's code."""


@dataclass(slots=True)
class ToolEpisode:
    """The episode in which a tool is called.

    `images` are those that the model has seen at full size, the question's first. `state` belongs to the tool and lasts as long as
    the episode; contexts that a tool enters on `stack` are left at its end. `sandbox` returns the pool for tools that need it.
    """

    task: Task
    images: list[Image.Image]
    sandbox: Callable[[], Awaitable[Pool]]
    stack: AsyncExitStack = field(default_factory=AsyncExitStack)
    state: dict[str, Any] = field(default_factory=dict)


class Tool(ABC):
    """A tool that a model may call. One object serves all episodes; the state of one episode is kept in its `ToolEpisode`.

    `name` is used in metrics and in the option `tools`; the model calls the tool by `call_name`, which is the same unless a
    subclass overrides it. `description` and `parameters` (a JSON schema of the arguments, an object) tell the model how.
    `instructions` is a sentence for the system prompt that explains the tool in the default protocol, if a schema does not say
    enough. `ignores_others` says that arguments outside `parameters` are dropped, of which the model is told, instead of being
    refused by the tool itself. A call that takes longer than `timeout_s` seconds is a TIMEOUT; None if the tool enforces its own
    deadline. `needs` lists the resources that it requires: "sandbox" or nothing.
    """

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = {"type": "object", "properties": {}}
    instructions: str | None = None
    timeout_s: float | None = 30.0
    needs: tuple[str, ...] = ()
    ignores_others: bool = False

    @property
    def call_name(self) -> str:
        """The name by which a model calls the tool."""
        return self.name

    @abstractmethod
    async def call(self, arguments: Mapping[str, Any], episode: ToolEpisode) -> ToolResult:
        """Do what the model asked for. Wrong arguments are a result with the remedy, never an exception.

        Raises InfrastructureError if the call should be repeated: the whole episode is then run again.
        """

    @property
    def guide(self) -> ToolGuide:
        """The description of the tool for a model."""
        function = {"name": self.call_name, "description": self.description, "parameters": dict(self.parameters)}
        return ToolGuide({"type": "function", "function": function}, self.instructions)
