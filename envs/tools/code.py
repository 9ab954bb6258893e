"""The code tool: one sandbox session per episode, opened at the first call."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from envs.errors import InfrastructureError
from envs.runtime.deadlines import waiting
from envs.tools.tool import SANDBOX, Tool, ToolEpisode
from envs.types import ToolResult, ToolStatus
from sandbox import SandboxUnavailable, Status

_STATUS = {
    Status.OK: ToolStatus.OK,
    Status.TIMEOUT: ToolStatus.TIMEOUT,
    Status.SANDBOX_FAILURE: ToolStatus.FAILURE,
}
_REMARK = {
    Status.TIMEOUT: "The code ran out of time.",
    Status.MEMORY: "The code ran out of memory.",
    Status.KILLED: "The code was killed.",
    Status.OUTPUT_LIMIT: "The output was cut off: print less.",
    Status.SANDBOX_FAILURE: "The code could not be run.",
}
_REMEDY = 'The code tool needs its source: write {"name": "code", "arguments": {"code": "…"}}'


class CodeTool(Tool):
    """Runs Python with `image_1` … `image_n` in the namespace; state persists until the episode ends.

    Its deadline is the session's; the wait for a free session does not count, nor does it in a deadline of `envs.runtime.deadlines`
    around the call. Calls of one turn run one after another, in order.
    """

    name = "code"
    description = (
        "Run Python in a stateful session. The question's images are PIL images image_1, image_2, …; printed text, shown figures "
        "and the value of the last expression come back."
    )
    parameters = {  # noqa: RUF012  nobody changes it
        "type": "object",
        "properties": {"code": {"type": "string", "description": "Python source."}},
        "required": ["code"],
    }
    instructions = (
        "To run Python: <code>\n```python\n…\n```\n</code>. The question's images are PIL images image_1, image_2, …; printed "
        "text, shown figures and the value of the last expression come back to you; variables persist between turns."
    )
    timeout_s = None
    needs = (SANDBOX,)
    ignores_others = True

    async def call(self, arguments: Mapping[str, Any], episode: ToolEpisode) -> ToolResult:
        """Run `arguments["code"]` and return what it printed, its traceback, and the images it showed or returned."""
        source = arguments.get("code")
        if not isinstance(source, str):
            return ToolResult(_REMEDY, status=ToolStatus.ERROR)
        try:
            async with episode.state.setdefault("lock", asyncio.Lock()):
                if "session" not in episode.state:
                    pool = await episode.sandbox()
                    session = pool.session(images=episode.task.images)
                    with waiting():
                        episode.state["session"] = await episode.stack.enter_async_context(session)
                result = await episode.state["session"].run(source)
        except SandboxUnavailable:
            raise
        except (RuntimeError, OSError, LookupError) as error:  # a pool that is being closed raises them: not the model's error
            raise InfrastructureError(f"the sandbox failed: {error}") from error
        parts = [part.rstrip("\n") for part in (result.stdout, result.stderr) if part.strip()]
        if remark := _REMARK.get(result.status):
            parts.append(remark)
        if not parts and not result.images:
            parts.append("(no output)")
        return ToolResult("\n".join(parts), result.images, _STATUS.get(result.status, ToolStatus.ERROR))
