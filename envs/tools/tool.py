"""What a tool is, and what it may know of the episode that calls it. An own tool is one subclass, or one function (`@tool`)."""

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
"""What a tool `needs` if it runs code of the model."""


@dataclass(slots=True)
class ToolEpisode:
    """The episode in which a tool is called.

    `images` are those that the model has seen at full size, the question's first. `state` is the tool's own and lasts as long as
    the episode; what a tool opens on `stack` is closed at its end. `sandbox` gives the pool for tools that need it.
    """

    task: Task
    images: list[Image.Image]
    sandbox: Callable[[], Awaitable[Pool]]
    stack: AsyncExitStack = field(default_factory=AsyncExitStack)
    state: dict[str, Any] = field(default_factory=dict)


class Tool(ABC):
    """Something that a model may call. One object serves all episodes; what belongs to one is kept in its `ToolEpisode`.

    `name` stands in metrics and in the option `tools`; the model calls the tool by `call_name`, which is the same unless a subclass
    says otherwise. `description` and `parameters` (a JSON schema of the arguments, an object) tell the model how. `instructions` is
    a sentence for the system prompt that explains the tool in the words of the default protocol, if a schema does not say enough.
    A call that takes longer than `timeout_s` seconds is a TIMEOUT; None if the tool keeps a deadline of its own. `needs` lists what
    it takes to run: "sandbox" or nothing.
    """

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = {"type": "object", "properties": {}}
    instructions: str | None = None
    timeout_s: float | None = 30.0
    needs: tuple[str, ...] = ()

    @property
    def call_name(self) -> str:
        """What a model writes to call it."""
        return self.name

    @abstractmethod
    async def call(self, arguments: Mapping[str, Any], episode: ToolEpisode) -> ToolResult:
        """Do what the model asked for. Wrong arguments are a result with the remedy, never an exception.

        Raises InfrastructureError if the call should be repeated: the whole episode is then run again.
        """

    @property
    def guide(self) -> ToolGuide:
        """What a model is told of it."""
        function = {"name": self.call_name, "description": self.description, "parameters": dict(self.parameters)}
        return ToolGuide({"type": "function", "function": function}, self.instructions)
