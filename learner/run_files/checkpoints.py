"""The checkpoints of a run, in a local directory or at any URL that fsspec knows: whole or not there, the newest and the best kept.

On a local disk a checkpoint is filled under a hidden name and renamed at the end, so what has its own name is whole. Object stores
cannot rename a folder: there a file `UNFINISHED` stands in it until it is whole.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from envs.errors import UsageError

_STATE = "state.json"
_UNFINISHED = "UNFINISHED"


class Checkpoints:
    """The checkpoints in one folder. It holds no connection, so it can be pickled and used by a worker.

    `url` is a path or a URL, `keep` the number of newest checkpoints of a stage that stay. Raises UsageError if no installed
    package knows the URL's protocol.
    """

    def __init__(self, url: str | Path, keep: int) -> None:
        self.keep = keep
        try:
            fs, path = url_to_fs(str(url))
        except (ValueError, ImportError) as error:
            reason = " ".join(str(error).split())
            raise UsageError(f"checkpoint.dir={url}: write a directory or a URL that fsspec can open here: {reason}") from error
        self._local = isinstance(fs, LocalFileSystem)
        self.url = path.rstrip("/") if self._local else str(url).rstrip("/")

    def open(self) -> None:
        """Make the folder, and remove what a killed run left half-written."""
        fs, root = url_to_fs(self.url)
        fs.makedirs(root, exist_ok=True)
        for path in self._entries():
            name = path.rpartition("/")[2]
            # The folder may hold what is not ours: nothing without our mark is removed.
            if name.startswith(".") and name.endswith(f".{_UNFINISHED}") if self._local else fs.exists(f"{path}/{_UNFINISHED}"):
                fs.rm(path, recursive=True)

    def location(self, name: str) -> str:
        """The path or URL of a checkpoint, whether it is there or not."""
        return f"{self.url}/{name}"

    def exists(self, name: str) -> bool:
        """Whether a checkpoint is there, and whole."""
        fs, path = url_to_fs(self.location(name))
        fs.invalidate_cache()  # another process may have written it
        return fs.exists(f"{path}/{_STATE}") and (self._local or not fs.exists(f"{path}/{_UNFINISHED}"))

    def state(self, name: str) -> dict[str, Any]:
        """What `commit` was given for this checkpoint."""
        fs, path = url_to_fs(self.location(name))
        return json.loads(fs.cat_file(f"{path}/{_STATE}"))

    def names(self) -> list[str]:
        """All checkpoints that are there."""
        return sorted(name for path in self._entries() if self.exists(name := path.rpartition("/")[2]))

    def newest(self, prefix: str) -> str | None:
        """The checkpoint `<prefix>_N` of the greatest N; None if there is none."""
        numbered = self._numbered(prefix)
        return numbered[max(numbered)] if numbered else None

    def numbers(self, prefix: str) -> list[int]:
        """The N of all checkpoints `<prefix>_N`, ascending."""
        return sorted(self._numbered(prefix))

    def remove_after(self, prefix: str, number: int) -> None:
        """Remove all checkpoints `<prefix>_N` whose N is greater."""
        for later, name in self._numbered(prefix).items():
            if later > number:
                self._remove(name)

    def begin(self, name: str) -> str:
        """An empty folder to fill, which `commit` makes the checkpoint of this name. Returns its path or URL."""
        self.discard(name)
        location = self._unfinished(name)
        fs, path = url_to_fs(location)
        fs.makedirs(path, exist_ok=True)
        if not self._local:
            fs.pipe_file(f"{path}/{_UNFINISHED}", b"")
        return location

    def discard(self, name: str) -> None:
        """Remove what was filled since `begin`."""
        fs, path = url_to_fs(self._unfinished(name))
        fs.invalidate_cache()
        if fs.exists(path):
            if not self._local:
                # A store removes files in any order: first what makes it a checkpoint.
                fs.pipe_file(f"{path}/{_UNFINISHED}", b"")
                if fs.exists(f"{path}/{_STATE}"):
                    fs.rm_file(f"{path}/{_STATE}")
            fs.rm(path, recursive=True)

    def commit(self, name: str, state: Mapping[str, Any], prefix: str | None = None, keep: Collection[int] = ()) -> None:
        """Make what was filled the checkpoint `name`; an older one of that name is replaced.

        Then, with `prefix`, remove all checkpoints `<prefix>_N` but the newest few and those whose N is in `keep`.
        """
        fs, path = url_to_fs(self._unfinished(name))
        fs.pipe_file(f"{path}/{_STATE}", json.dumps(state, indent=2).encode() + b"\n")
        if self._local:
            _replace(Path(path), Path(self.location(name)))
        else:
            fs.rm_file(f"{path}/{_UNFINISHED}")
        if prefix is not None:
            self._prune(prefix, keep)

    def _prune(self, prefix: str, keep: Collection[int]) -> None:
        numbered = self._numbered(prefix)
        for number in sorted(numbered)[: -self.keep]:
            if number not in keep:
                self._remove(numbered[number])

    def _remove(self, name: str) -> None:
        if self._local:
            Path(self.location(name)).rename(self._unfinished(name))
        self.discard(name)

    def _numbered(self, prefix: str) -> dict[int, str]:
        numbers = {name: name.removeprefix(f"{prefix}_") for name in self.names() if name.startswith(f"{prefix}_")}
        return {int(number): name for name, number in numbers.items() if number.isdigit()}

    def _entries(self) -> list[str]:
        """The paths of all that is in the folder."""
        fs, root = url_to_fs(self.url)
        fs.invalidate_cache()
        return [path.rstrip("/") for path in fs.ls(root, detail=False)] if fs.exists(root) else []

    def _unfinished(self, name: str) -> str:
        return self.location(f".{name}.{_UNFINISHED}" if self._local else name)


def unreadable(location: str, reason: object) -> str:
    """What a person is told of a checkpoint that cannot be read, and what to do."""
    return (
        f"the checkpoint {location} cannot be read ({' '.join(str(reason).split())[:300]}): if it is damaged, remove it, and "
        "resume=true goes on from the one before"
    )


def _replace(unfinished: Path, target: Path) -> None:
    """Rename a directory; one that has the name already is moved aside before and removed after."""
    old = target.with_name(f".{target.name}.old.{_UNFINISHED}")
    if target.exists():
        target.rename(old)
    unfinished.rename(target)
    shutil.rmtree(old, ignore_errors=True)
