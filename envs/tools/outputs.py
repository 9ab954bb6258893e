"""Replacement outputs of tools, for ablations: a model is shown the real output, nothing, or an output from another task."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from envs.errors import UsageError
from envs.pictures import decode
from envs.protocols.text import escape
from envs.types import ToolResult, ToolStatus

REAL, BLANK = "real", "blank"
_FILE = "outputs.jsonl"


@dataclass(frozen=True, slots=True)
class Donor:
    """One output of a tool: the task whose call returned it, its text, and its images as PNG."""

    task_id: str
    tool: str
    text: str
    images: tuple[bytes, ...] = ()


def write_donors(directory: Path, donors: Iterable[Donor]) -> None:
    """Writes the files that `replaced` reads."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / _FILE).open("w", encoding="utf-8") as file:
        for donor in donors:
            names = [f"{hashlib.sha256(image).hexdigest()}.png" for image in donor.images]
            for name, image in zip(names, donor.images, strict=True):
                (directory / name).write_bytes(image)
            record = {"task_id": donor.task_id, "tool": donor.tool, "text": donor.text, "images": names}
            file.write(json.dumps(record, ensure_ascii=False) + "\n")


def replaced(outputs: str, result: ToolResult, tool: str, task_id: str, call: int) -> ToolResult:
    """The output that the model is shown in place of `result`, with the status of the real call.

    `outputs` is "real", "blank" (no text, no image), or a directory of donors: then the output is one of the same tool in another
    task, always the same one for the `call`-th call of a task. It is blank if no other task has a different one.
    """
    if outputs == REAL or result.status is ToolStatus.FAILURE:
        return result
    others = [] if outputs == BLANK else _donors(outputs).get(tool, [])
    # Two tasks may have the same output: that would be no swap.
    donors = [donor for donor in others if donor.task_id != task_id and (donor.images or donor.text != escape(result.text))]
    if not donors:
        return ToolResult("", (), result.status)
    donor = donors[zlib.crc32(f"{task_id} {call}".encode()) % len(donors)]
    return ToolResult(donor.text, tuple(decode(image, ["PNG"]) for image in donor.images), result.status)


@lru_cache(maxsize=2)
def _donors(directory: str) -> dict[str, list[Donor]]:
    file = Path(directory, _FILE)
    if not file.is_file():
        raise UsageError(
            f"tool_outputs={directory}: write real, blank, or a directory that `toolwise evaluate ablate=outputs` made"
        )
    by_tool: dict[str, list[Donor]] = {}
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            record = json.loads(line)
            images = tuple(Path(directory, name).read_bytes() for name in record["images"])
            by_tool.setdefault(record["tool"], []).append(Donor(record["task_id"], record["tool"], record["text"], images))
    return by_tool
