"""Stored answers of searches: cached on disk and shared, recorded in a file, or replayed from one without any request.

All of it is JSON: a file from an untrusted source can give wrong answers, but cannot run code.
"""

from __future__ import annotations

import asyncio
import base64
import fcntl
import hashlib
import io
import json
import logging
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from envs.errors import SearchUnavailable, UsageError
from envs.pictures import decode, rgb
from envs.runtime.atomic import append, cut_last_line
from envs.search.types import ImageSearch, Match, Passage, TextSearch

log = logging.getLogger(__name__)


class Memory(Protocol):
    """Answers by key. `get` returns None if there is none yet, and may raise SearchUnavailable if there will be none."""

    def get(self, key: str) -> Any | None: ...

    def put(self, key: str, answer: Any) -> None: ...


class Recording:
    """A file with a line for each answer; an answer that it holds already is not requested again."""

    def __init__(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self._file = file
        self._known = _read(file, goes_on=True) if file.exists() else {}

    def get(self, key: str) -> Any | None:
        return self._known.get(key)

    def put(self, key: str, answer: Any) -> None:
        self._known[key] = answer
        line = json.dumps({"key": key, "answer": answer}, ensure_ascii=False) + "\n"
        with self._file.open("ab") as lock:  # several workers may write
            with suppress(OSError):  # a file system without locks, where lines are written in one piece all the same
                fcntl.flock(lock, fcntl.LOCK_EX)
            cut_last_line(self._file)
            append(self._file, line.encode())


class Replay:
    """A recording that is the only source: an answer that it does not hold is not available."""

    def __init__(self, file: Path) -> None:
        if not file.is_file():
            raise UsageError(f"replay={file}: there is no such file; record one with record={file}")
        self._file, self._known = file, _read(file)
        self._sources = {key.partition(".")[2] for key in self._known}
        self._by_question: dict[str, list[str]] = {}
        for key in self._known:
            self._by_question.setdefault(key.partition(".")[0], []).append(key)

    def get(self, key: str) -> Any:
        question, _, source = key.partition(".")
        # A recording outlives its server and its index, so their names need not be given again, unless it holds several.
        keys = [key] if source in self._sources else self._by_question.get(question, [])
        if len(keys) > 1:
            raise SearchUnavailable(f"{self._file.name} holds answers of several searches: give the url= or path= of one")
        if not keys or keys[0] not in self._known:
            raise SearchUnavailable(f"{self._file.name} holds no answer to this query")
        return self._known[keys[0]]

    def put(self, key: str, answer: Any) -> None:
        raise AssertionError("a replay is never added to")


class RememberingTextSearch:
    """A text search behind a memory. `name` separates the answers of different backends, `source` those of one kind of backend.

    `keep_empty=False` asks again for what had no results: a web service that is asked too much says that it found nothing.
    """

    def __init__(self, backend: TextSearch | None, memory: Memory, name: str, source: str = "", *, keep_empty: bool = True) -> None:
        self._backend, self._memory, self._name, self._source = backend, memory, name, source
        self._keep_empty = keep_empty

    async def search(self, queries: Sequence[str], top_k: int) -> list[list[Passage]]:
        """See `TextSearch`. Only queries without a stored answer are sent to the backend, in one call."""
        keys = [_key(self._source, "text", self._name, query, top_k) for query in queries]
        known = [await asyncio.to_thread(self._memory.get, key) for key in keys]
        missing = [index for index, answer in enumerate(known) if answer is None]
        if missing and self._backend is not None:
            found = await self._backend.search([queries[index] for index in missing], top_k)
            for index, passages in zip(missing, found, strict=True):
                known[index] = [[passage.title, passage.source, passage.snippet] for passage in passages]
                if passages or self._keep_empty:
                    await asyncio.to_thread(self._memory.put, keys[index], known[index])
        return [[Passage(*fields) for fields in answer or []] for answer in known]


class RememberingImageSearch:
    """An image search behind a memory; images are known by their pixels. The rest is as for `RememberingTextSearch`."""

    def __init__(
        self, backend: ImageSearch | None, memory: Memory, name: str, source: str = "", *, keep_empty: bool = True
    ) -> None:
        self._backend, self._memory, self._name, self._source = backend, memory, name, source
        self._keep_empty = keep_empty

    async def search(self, image: Image.Image, top_k: int) -> list[Match]:
        """See `ImageSearch`."""
        pixels = hashlib.sha256(rgb(image).tobytes()).hexdigest()
        key = _key(self._source, "image", self._name, f"{image.size} {pixels}", top_k)
        answer: Any = await asyncio.to_thread(self._memory.get, key)
        if answer is None and self._backend is not None:
            found = await self._backend.search(image, top_k)
            answer = [_record(match) for match in found]
            if found or self._keep_empty:
                await asyncio.to_thread(self._memory.put, key, answer)
        return [Match(item["title"], item["source"], _decoded(item["thumbnail"])) for item in answer or []]


def _key(source: str, *question: Any) -> str:
    """The key of an answer: a hash of the question, and the source of the answer behind a dot."""
    asked = hashlib.sha256(json.dumps(question).encode()).hexdigest()
    return f"{asked}.{source}" if source else asked


def _read(file: Path, goes_on: bool = False) -> dict[str, Any]:
    """The answers of a recording. A last line that a kill has cut is left out; if the recording `goes_on`, so is one that lacks its
    line end alone, since it is cut off before the next line is written."""
    known = {}
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            whole = line.endswith(b"\n")
            try:
                record = json.loads(line)
                key, answer = record["key"], record["answer"]
            except (ValueError, KeyError, TypeError):
                if whole:
                    raise UsageError(f"{file}, line {number}: not a recorded answer; record the searches anew") from None
                goes_on = True
            if not whole and goes_on:
                log.warning("%s: the last line is only half written and is left out", file)
            else:
                known[key] = answer
    return known


def _record(match: Match) -> dict[str, Any]:
    return {"title": match.title, "source": match.source, "thumbnail": _encoded(match.thumbnail)}


def _encoded(thumbnail: Image.Image | None) -> str | None:
    if thumbnail is None:
        return None
    file = io.BytesIO()
    rgb(thumbnail).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def _decoded(text: str | None) -> Image.Image | None:
    if text is None:
        return None
    return decode(base64.b64decode(text), ["PNG"])
