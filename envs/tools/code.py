"""The code tool: one sandbox session per episode, opened at the first call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any

from PIL import Image

from envs.types import ToolResult, ToolStatus
from sandbox import Pool, Status

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


class CodeTool:
    """Runs Python with `image_1` … `image_n` in the namespace; state persists until `close`."""

    def __init__(self, sandbox: Pool, images: Sequence[Image.Image]) -> None:
        self._sandbox = sandbox
        self._images = images
        self._stack = AsyncExitStack()
        self._session = None

    async def call(self, arguments: Mapping[str, Any]) -> ToolResult:
        """Run `arguments["source"]` and return what it printed, its traceback, and the images it showed or returned."""
        if self._session is None:
            self._session = await self._stack.enter_async_context(self._sandbox.session(images=self._images))
        result = await self._session.run(arguments["source"])
        parts = [part.rstrip("\n") for part in (result.stdout, result.stderr) if part.strip()]
        if remark := _REMARK.get(result.status):
            parts.append(remark)
        if not parts and not result.images:
            parts.append("(no output)")
        return ToolResult("\n".join(parts), result.images, _STATUS.get(result.status, ToolStatus.ERROR))

    async def close(self) -> None:
        """Close the session, if one was opened."""
        self._session = None
        await self._stack.aclose()
