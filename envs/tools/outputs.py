"""Outputs of tools that did not come about by the call that they are shown for, for ablations: nothing or an output from another
task in place of the real one, or the outputs of an earlier episode in the question itself."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from PIL import Image

from envs.errors import UsageError
from envs.pictures import decode
from envs.protocols.text import escape
from envs.runtime.atomic import write_file
from envs.types import ToolResult, ToolStatus

REAL, BLANK = "real", "blank"
_FILE = "outputs.jsonl"
_HEADING = "Results of the tools that were called for this question:"


@dataclass(frozen=True, slots=True)
class Donor:
    """One output of a tool: the task whose call returned it, its text, and its images as PNG."""

    task_id: str
    tool: str
    text: str
    images: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class _Kept:
    """A donor as its directory holds it, whose images are read when one is shown: those of all would fill a worker's memory."""

    task_id: str
    text: str
    images: tuple[Path, ...]


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
    return ToolResult(donor.text, tuple(decode(image.read_bytes(), ["PNG"]) for image in donor.images), result.status)


def write_given(file: Path, texts: Sequence[str], images: Sequence[bytes]) -> None:
    """Write what `given` reads: the outputs of an episode's calls in order, and the images (PNG) that they showed."""
    file.parent.mkdir(parents=True, exist_ok=True)
    names = [f"{hashlib.sha256(image).hexdigest()}.png" for image in images]
    for name, image in zip(names, images, strict=True):
        (file.parent / name).write_bytes(image)
    write_file(file, json.dumps({"texts": list(texts), "images": names}, ensure_ascii=False) + "\n")


def given(file: str) -> tuple[str, tuple[Image.Image, ...]]:
    """What stands behind a question whose tools were called before: the outputs as text, escaped, and their images.

    Raises UsageError if there is no such file.
    """
    path = Path(file)
    if not path.is_file():
        raise UsageError(f"given_results={file}: write a file that `toolwise evaluate referee=true` made")
    record = json.loads(path.read_text(encoding="utf-8"))
    images = tuple(decode((path.parent / name).read_bytes(), ["PNG"]) for name in record["images"])
    return escape("\n".join([_HEADING, *record["texts"]])), images


@lru_cache(maxsize=2)
def _donors(directory: str) -> dict[str, list[_Kept]]:
    file = Path(directory, _FILE)
    if not file.is_file():
        raise UsageError(
            f"tool_outputs={directory}: write real, blank, or a directory that `toolwise evaluate ablate=outputs` made"
        )
    by_tool: dict[str, list[_Kept]] = {}
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            record = json.loads(line)
            images = tuple(Path(directory, name) for name in record["images"])
            by_tool.setdefault(record["tool"], []).append(_Kept(record["task_id"], record["text"], images))
    return by_tool
