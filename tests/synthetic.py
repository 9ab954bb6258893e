"""Four policies whose figures are known, as scripts of the real microworld's reasoning tasks. Importing this module registers them.

Hard tasks are products, which code must compute; easy ones are sums. All know the sums. `never` calls nothing; `always` calls and
answers with what is printed; `needed` calls on products alone; `ignores` calls as `always` does and answers without looking. Who
has no printed number looks into the question, which may show the results of earlier calls, and then gives up.
"""

from __future__ import annotations

import re
from typing import Any

import gymnasium

from envs.protocols.actions import Answer
from envs.tool_env import ToolEnv
from envs.tools.calls import run_code
from envs.types import Script
from envs.worlds.microworld import Microworld

_UNKNOWN = "unknown"


class Synthetic(ToolEnv):
    """The reasoning tasks with one of the four policies as its expert."""

    def __init__(self, manner: str, split: str = "test", **options: Any) -> None:
        super().__init__(Microworld(("reasoning",), split), max_turns=4, tools=["code"], **options)
        self._manner, self._question = manner, ""

    async def reset_async(self, **options: Any) -> Any:
        observation, info = await super().reset_async(**options)
        self._question = observation["text"]
        return observation, info

    def expert(self, rng: object) -> Script:
        """The turns of the policy."""
        return self._worded(self._script())

    def _script(self) -> Script:
        task = self._task
        assert task is not None
        hard, printed = bool(task.needed_tools), ""
        if self._manner in ("always", "ignores") or (self._manner == "needed" and hard):
            observation = yield run_code(f"print({task.question.removeprefix('What is ').rstrip('?')})")
            printed = observation["text"].strip()
        if not hard:
            yield Answer(task.answer)
        elif self._manner in ("never", "ignores"):
            yield Answer(_UNKNOWN)
        else:
            shown = re.search(r"^\d+$", self._question, re.MULTILINE)
            yield Answer(printed if printed.isdecimal() else shown[0] if shown else _UNKNOWN)


gymnasium.register("Synthetic-v0", entry_point=Synthetic)
