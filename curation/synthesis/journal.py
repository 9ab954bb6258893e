"""What is on disk at any moment: each reply of a teacher as soon as it came, and each demonstration as soon as it ended.

A process that is killed loses what was under way and nothing else: a demonstration that had begun is played again with the replies
that had come, and only what comes after them is asked.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from envs.errors import UsageError
from envs.runtime.atomic import cut_last_line, naming
from envs.runtime.chat_endpoint import Reply, RequestedCall

_ERRORS = "surrogatepass"  # a reply that was cut off inside an emoji has half of it


class Lines:
    """A file of JSON lines that only grows. A last line that a kill has cut is removed when it is opened."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        cut_last_line(path)
        self._file = path.open("a", encoding="utf-8", errors=_ERRORS)

    def append(self, record: dict[str, Any]) -> None:
        """Add a record: the operating system has it when this returns."""
        with naming(self._path):
            self._file.write(json.dumps(record, ensure_ascii=False, separators=(",", ":")) + "\n")
            self._file.flush()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The records. Raises UsageError if a line is none."""
        with self._path.open("rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    record = json.loads(line.decode(errors=_ERRORS))
                    if not isinstance(record, dict):
                        raise ValueError("not a record")
                except ValueError as error:
                    raise UsageError(f"{self._path}, line {number}: {error}: put the file back, or remove the line") from error
                yield record

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Replies:
    """The replies of all teachers, each by the episode and the digest of its request."""

    def __init__(self, path: Path) -> None:
        self._lines = Lines(path)
        self._known: dict[tuple[str, str], Reply] = {}

    def read(self, ended: Collection[str]) -> Iterator[dict[str, Any]]:
        """All records; the replies of episodes that have not `ended` are kept at hand."""
        for record in self._lines:
            if record["episode"] not in ended:
                reply = dict(record["reply"])
                calls = tuple(RequestedCall(**call) for call in reply.pop("tool_calls"))
                self._known[record["episode"], record["request"]] = Reply(**reply, tool_calls=calls)
            yield record

    def get(self, episode: str, request: str) -> Reply | None:
        """The reply to a request that was made before."""
        return self._known.get((episode, request))

    def add(self, episode: str, request: str, reply: Reply, **facts: Any) -> None:
        """Keep a reply."""
        self._known[episode, request] = reply
        self._lines.append({"episode": episode, "request": request, **facts, "reply": asdict(reply)})

    def forget(self, episode: str) -> None:
        """Drop the replies of an episode that has ended from memory."""
        for key in [key for key in self._known if key[0] == episode]:
            del self._known[key]

    def close(self) -> None:
        """Close the file."""
        self._lines.close()
