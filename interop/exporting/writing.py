"""What the writers of all formats share: their interface, JSON that every reader takes, and what is said of an episode."""

from __future__ import annotations

import json
import math
import shutil
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from envs.protocols.text import encodable
from interop.exporting.conversation import Conversation
from interop.exporting.runs import Source
from interop.settings import ExportConfig
from rollout.store import step_of


class Writer(ABC):
    """Writes the conversations of a run, one after the other, names in turn; `directory` is where, and its own alone."""

    def __init__(self, directory: Path, source: Source, config: ExportConfig) -> None:
        self.directory, self.source, self.config = directory, source, config
        self._copied: set[str] = set()

    @abstractmethod
    def add(self, conversation: Conversation) -> bool:
        """Write one; False, with a note of why, if the format has no place for it."""

    @abstractmethod
    def close(self) -> list[str]:
        """Finish all files; returns what was written, relative to the directory."""

    def copied_image(self, sha: str) -> str | None:
        """The path of an image below the directory, to which it is copied; None, and counted, if it is missing."""
        name = f"images/{sha}.png"
        if sha not in self._copied:
            path = self.source.image(sha)
            if path is None:
                return None
            (self.directory / "images").mkdir(exist_ok=True)
            shutil.copyfile(path, self.directory / name)
            self._copied.add(sha)
        return name

    def has_images(self, conversation: Conversation) -> bool:
        """Whether all its images are there."""
        return not [sha for sha in dict.fromkeys(conversation.shown_images) if self.source.image(sha) is None]


def dumped(value: Any) -> str:
    """JSON on one line: U+FFFD stands for a lone surrogate, which UTF-8 cannot write, and null for a number that is not finite."""
    try:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except ValueError:
        text = json.dumps(finite(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return encodable(text)


def finite(value: Any) -> Any:
    """The value with None for each number that is not finite."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(name): finite(entry) for name, entry in value.items()}
    return [finite(entry) for entry in value] if isinstance(value, list | tuple) else value


def facts(conversation: Conversation, run: str) -> dict[str, Any]:
    """What the run knows of an episode beside its words and tokens: the same in every format."""
    record, step = conversation.record, step_of(conversation.name)
    versions = [version for chain in conversation.episode.chains for version in chain.versions if version >= 0]
    return {
        "run": run,
        "name": conversation.name,
        "step": step[0] if step else None,
        "episode_id": record.episode_id,
        "task_id": record.task_id,
        "group_id": record.group_id,
        "abilities": list(record.abilities),
        "needed_tools": record.needed_tools,
        "reward": record.reward,
        "reward_parts": finite(record.reward_parts),
        "correct": record.correct and not record.failed,
        "answer": record.answer,
        "stop_reason": str(record.stop_reason),
        "error": record.error,
        "tool_calls": record.tool_calls,
        "policy_versions": [min(versions), max(versions)] if versions else None,
        "source": record.source,
        "seed": record.seed,
        "temperature": record.temperature,
        "cut": record.cut,
        "cut_before": record.cut_before,
        "chains": len(conversation.episode.chains),
    }
