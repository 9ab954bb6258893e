"""Opens the searches that the options `text_search=` and `image_search=` of an environment name.

A directory is an index that `toolwise index` built; a URL is a server; `module:name` is a search of your own, or what makes
one; a mapping has the `backend` and its settings. Equal settings share one object in a process.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

from envs.errors import UsageError
from envs.runtime.disk_cache import DiskCache
from envs.runtime.imports import load
from envs.search.http import HttpClient
from envs.search.image.cache import CachedImageSearch
from envs.search.image.embedding_index import SETTINGS, EmbeddingIndex
from envs.search.image.index import ImageIndex
from envs.search.image.services import ImageServer
from envs.search.recording import Memory, Recording, RememberingImageSearch, RememberingTextSearch, Replay
from envs.search.text.index import TextIndex
from envs.search.text.services import SERVICES, RetrievalServer, WebSearch
from envs.search.types import ImageSearch, TextSearch

_IMPORT_PATH = re.compile(r"[A-Za-z_]\w+(?:\.\w+)*:[A-Za-z_][\w.]*")  # one letter before the colon is a drive
_ENDS = 1 << 16  # bytes read at either end of an index's files


@dataclass(frozen=True, slots=True)
class SearchSettings:
    """The settings of one search. `questions` is the file whose images a `deepeyes_cache` knows.

    `cache` is a directory that stores answers; `record` is a file to write them to; `replay` is a file that is the only source of
    answers. `timeout_s` is for each attempt of a request, of which there are at most `attempts`.
    """

    backend: str
    path: str | None = None
    questions: str | None = None
    url: str | None = None
    cache: str | None = None
    record: str | None = None
    replay: str | None = None
    timeout_s: float = 10.0
    attempts: int = 4


def _text_server(settings: SearchSettings) -> TextSearch:
    return RetrievalServer(_required(settings, "url"), HttpClient(settings.timeout_s, settings.attempts))


def _service(settings: SearchSettings) -> TextSearch:
    return WebSearch(settings.backend, HttpClient(settings.timeout_s, settings.attempts), settings.url)


def _image_server(settings: SearchSettings) -> ImageSearch:
    return ImageServer(_required(settings, "url"), HttpClient(settings.timeout_s, settings.attempts))


def _image_index(settings: SearchSettings) -> ImageSearch:
    directory = Path(_required(settings, "path"))
    return EmbeddingIndex.open(directory) if (directory / SETTINGS).is_file() else ImageIndex.open(directory)


def _own(setting: str, settings: SearchSettings) -> Any:
    """The search at an import path."""
    path = _required(settings, "path")
    found = load(path, setting)
    made = found() if isinstance(found, type) or (callable(found) and not hasattr(found, "search")) else found
    if not hasattr(made, "search"):
        raise UsageError(f"{setting}={path}: it has no `search`: write a TextSearch or ImageSearch (envs.search.types)")
    return made


TEXT_BACKENDS: Mapping[str, Callable[[SearchSettings], TextSearch]] = {
    "index": lambda settings: TextIndex.open(Path(_required(settings, "path"))),
    "own": lambda settings: _own("text_search", settings),
    "server": _text_server,
    **dict.fromkeys(SERVICES, _service),
}
IMAGE_BACKENDS: Mapping[str, Callable[[SearchSettings], ImageSearch]] = {
    "index": _image_index,
    "deepeyes_cache": lambda settings: CachedImageSearch(Path(_required(settings, "path")), Path(_required(settings, "questions"))),
    "own": lambda settings: _own("image_search", settings),
    "server": _image_server,
}


def open_text_search(settings: TextSearch | str | Mapping[str, Any] | None) -> TextSearch | None:
    """Open a search from settings; an existing search is returned unchanged. Raises UsageError if the settings are wrong."""
    return _opened("text", _canonical(settings)) if isinstance(settings, str | Mapping) else settings


def open_image_search(settings: ImageSearch | str | Mapping[str, Any] | None) -> ImageSearch | None:
    """As `open_text_search`."""
    return _opened("image", _canonical(settings)) if isinstance(settings, str | Mapping) else settings


def _canonical(settings: str | Mapping[str, Any]) -> str:
    if isinstance(settings, str):
        if settings.startswith(("http://", "https://")):
            settings = {"backend": "server", "url": settings}
        else:
            settings = {"backend": "own" if _IMPORT_PATH.fullmatch(settings) else "index", "path": settings}
    return json.dumps(dict(settings), sort_keys=True)


@lru_cache(maxsize=32)
def _opened(kind: str, canonical: str) -> Any:
    record = json.loads(canonical)
    known = [field.name for field in fields(SearchSettings)]
    backends: Mapping[str, Callable[[SearchSettings], Any]] = TEXT_BACKENDS if kind == "text" else IMAGE_BACKENDS
    if unknown := sorted(set(record) - set(known)):
        raise UsageError(f"{kind}_search has {', '.join(unknown)}: write some of {', '.join(known)}")
    if record.get("backend") not in backends:
        raise UsageError(f"{kind}_search has the backend {record.get('backend')!r}: write one of {', '.join(backends)}")
    settings = SearchSettings(**record)
    backend = None if settings.replay else backends[settings.backend](settings)
    for memory in _memories(settings):
        wrap: Any = RememberingTextSearch if kind == "text" else RememberingImageSearch
        backend = wrap(backend, memory, settings.backend, _source(settings), keep_empty=settings.backend not in SERVICES)
    return backend


def _source(settings: SearchSettings) -> str:
    """A mark of what answers: two servers have two, and so have an index and the one that is built in its place."""
    files = [] if settings.backend == "own" else [Path(path) for path in (settings.path, settings.questions) if path]
    parts = [[settings.url, settings.path, settings.questions], [_build(path) for path in files]]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _build(path: Path) -> list[tuple[str, int, str]]:
    """What tells the build of an index from others, without reading all of it: its files' names, sizes, beginnings and ends.

    Not their times, which differ between copies on several machines.
    """
    marks = []
    for file in sorted(path.iterdir()) if path.is_dir() else [path] if path.is_file() else []:
        if file.is_file() and not file.name.startswith("."):
            with file.open("rb") as opened:
                size = opened.seek(0, os.SEEK_END)
                opened.seek(0)
                begin = opened.read(_ENDS)
                opened.seek(max(0, size - _ENDS))
                marks.append((file.name, size, hashlib.sha256(begin + opened.read(_ENDS)).hexdigest()))
    return marks


def _memories(settings: SearchSettings) -> list[Memory]:
    if settings.replay:
        return [Replay(Path(settings.replay))]
    memories: list[Memory] = []
    if settings.cache:
        memories.append(DiskCache(Path(settings.cache)))
    if settings.record:
        memories.append(Recording(Path(settings.record)))
    return memories


def _required(settings: SearchSettings, name: str) -> str:
    value = getattr(settings, name)
    if not value:
        raise UsageError(f"the search backend {settings.backend} needs {name}=")
    return value
