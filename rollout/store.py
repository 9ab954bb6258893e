"""Trajectory files: one JSON object per line in `trajectories/<name>.jsonl`, the images beside them as `images/<sha256>.png`.

Workers that write at the same time each write a part of their own, a *shard*: `<name>.w<8 hexadecimal digits>.jsonl`. The shards
of a name are read as one. A shard that is being written ends in `.part`; one that a kill left behind is read by nobody, and goes
when its name is written again.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from envs.errors import UsageError
from envs.runtime.atomic import append, cut_last_line, replaced_file, write_file
from rollout.types import Episode, Group, Trajectory, form_episodes, form_groups

_SHARD = re.compile(r"(?P<name>.+)\.w[0-9a-f]{8}")
_SHA256 = re.compile("[0-9a-f]{64}")
_RL = re.compile(r"rl_(?P<step>\d{1,9})(?:_(?P<draw>\d{1,9}))?", re.ASCII)
_REMEDY = "put it back, or remove the lines of that episode (`toolwise lint` names all that are broken)"
_BEGIN = re.compile(rb'\{"episode_id":("(?:[^"\\]|\\.)*")')  # of a line; the rest of it need not be read


@dataclass(frozen=True, slots=True)
class Shard:
    """What one writer writes of a name; `writer` are 8 hexadecimal digits, and `directory` is absolute: it is sent to workers."""

    directory: Path
    name: str
    writer: str

    @property
    def path(self) -> Path:
        """The file that `finish` makes."""
        return self.directory / f"{self.name}.w{self.writer}.jsonl"

    @property
    def unfinished(self) -> Path:
        """The file that `append` writes to."""
        return self.path.with_name(f"{self.path.name}.part")

    def append(self, episode: Episode) -> None:
        """Add an episode, whole or not at all."""
        _append(self.directory, self.unfinished, episode)

    def finish(self, episode_ids: Collection[str]) -> set[str]:
        """Give the shard its name, with these episodes alone; returns those of them that were never written.

        Others were written and then not wanted: their worker was taken for dead, and they were run again. Doing it twice does no
        harm.
        """
        missing = set(episode_ids)
        if self.path.exists():
            missing.clear()
        elif missing and self.unfinished.exists():
            _cut_last_episode(self.unfinished)
            with replaced_file(self.path) as kept, kept.open("wb") as file:
                for episode_id, line in _lines(self.unfinished):
                    if episode_id in episode_ids:
                        missing.discard(episode_id)
                        file.write(line)
        self.unfinished.unlink(missing_ok=True)
        return missing


class Store:
    """The trajectories of a run directory."""

    def __init__(self, run_directory: str | Path) -> None:
        self.directory = Path(run_directory) / "trajectories"

    def write(self, name: str, episodes: Iterable[Episode]) -> Path:
        """Write `<name>.jsonl` anew, whole or not at all, in place of all that bears the name. Returns its path."""
        path = self._path(name)
        write_file(path, "".join(saved(self.directory, episodes)))
        self._remove(self._shards(name))
        return path

    def shard(self, name: str, writer: str) -> Shard:
        """The part of `name` that a writer writes."""
        return Shard(self.directory.absolute(), name, writer)

    def clear(self, name: str) -> None:
        """Remove all that bears the name, unfinished shards included."""
        self._remove([self._path(name), *self._shards(name)])

    def append(self, name: str, episode: Episode) -> None:
        """Add one episode to `<name>.jsonl`, whole or not at all: it is on disk when this returns."""
        _append(self.directory, self._path(name), episode)

    def read_unfinished(self, name: str) -> list[Episode]:
        """The episodes of a file that `append` made and that a kill may have cut: the last one is left out unless it is whole."""
        path = self._path(name)
        if not path.exists():
            return []
        _cut_last_episode(path)
        return list(self.read(name))

    def retain(self, name: str, episode_ids: Collection[str]) -> None:
        """Keep only these episodes in a file that `append` made and that a kill may have cut. One line is in memory at a time."""
        path = self._path(name)
        if not path.exists():
            return
        cut_last_line(path)  # none of these episodes: they were whole when they were written down
        if all(episode_id in episode_ids for episode_id, _ in _lines(path)):
            return
        with replaced_file(path) as kept, kept.open("wb") as file:
            file.writelines(line for episode_id, line in _lines(path) if episode_id in episode_ids)

    def read(self, name: str, *, images: bool = True) -> Iterator[Episode]:
        """The episodes of a file, with their images unless statistics are all that is wanted.

        Raises UsageError for a broken record or a picture that is not there, FileNotFoundError for a missing file.
        """
        for episode in form_episodes(self.trajectories(name)):
            names = {sha for chain in episode.chains for sha in chain.images} if images else set()
            yield Episode(episode.chains, {sha: self._png(episode, sha) for sha in names})

    def _png(self, episode: Episode, sha: str) -> bytes:
        path = self.directory / "images" / f"{sha}.png"
        try:
            return path.read_bytes()
        except OSError as error:
            owner = episode.chains[0].episode_id
            raise UsageError(f"{path}, a picture of {owner}, cannot be read ({error.strerror}): {_REMEDY}") from error

    def groups(self, name: str, *, images: bool = True) -> list[Group]:
        """The groups of a file. Raises as `read`."""
        return form_groups(self.read(name, images=images))

    def trajectories(self, name: str) -> Iterator[Trajectory]:
        """The records of a name: one for each chain of an episode, without images. Raises as `read`."""
        for path in self.paths(name) or [self._path(name)]:
            with path.open("rb") as file:
                for number, line in enumerate(file, 1):
                    try:
                        record = Trajectory.from_json(line.decode())
                    except ValueError as error:
                        raise UsageError(f"{path}, line {number}: {' '.join(str(error).split())}: {_REMEDY}") from error
                    yield record

    def names(self, *, unfinished: bool = False) -> list[str]:
        """All names, sorted; each once, into however many shards it is divided. Also those of `unfinished` shards alone if asked
        for."""
        found = self.directory.glob("*.jsonl")
        return sorted({name_of(path) for path in (*found, *(self.unfinished() if unfinished else ()))})

    def paths(self, name: str) -> list[Path]:
        """The finished files of a name."""
        whole = [self._path(name)] if self._path(name).exists() else []
        return whole + [path for path in self._shards(name) if path.suffix == ".jsonl"]

    def image(self, sha: str) -> Path | None:
        """The file of an image; None if it is missing or its name is none. A link is none: what it points at is nobody's image, and
        runs are passed on."""
        path = self.directory / "images" / f"{sha}.png"
        return path if _SHA256.fullmatch(sha) and path.is_file() and not path.is_symlink() else None

    def unfinished(self) -> list[Path]:
        """Shards that are being written, or that a kill left behind."""
        return sorted(self.directory.glob("*.jsonl.part"))

    def _shards(self, name: str) -> list[Path]:
        """The shards of a name, unfinished ones included."""
        found = [path for path in self.directory.glob("*.jsonl*") if _SHARD.fullmatch(path.name.partition(".jsonl")[0])]
        return sorted(path for path in found if name_of(path) == name)

    def _path(self, name: str) -> Path:
        return self.directory / f"{name}.jsonl"

    @staticmethod
    def _remove(paths: Iterable[Path]) -> None:
        for path in paths:
            path.unlink(missing_ok=True)


def name_of(path: Path) -> str:
    """The name to which a trajectory file belongs."""
    stem = path.name.partition(".jsonl")[0]
    return match["name"] if (match := _SHARD.fullmatch(stem)) else stem


def step_of(name: str) -> tuple[int, int] | None:
    """The step of RL whose episodes bear a name, counted from 0, and which of its draws. None for the names of other stages.

    Dynamic sampling draws groups for a step until enough of them vary, as `rl_000012`, `rl_000012_1` and so on.
    """
    match = _RL.fullmatch(name)
    return (int(match["step"]), int(match["draw"] or 0)) if match else None


def _lines(path: Path) -> Iterator[tuple[str | None, bytes]]:
    """The whole lines of a file, each with the name of its episode, for which the rest of it is not read; None for other lines."""
    with path.open("rb") as file:
        for line in file:
            begin = _BEGIN.match(line)
            yield (json.loads(begin[1]) if begin and line.endswith(b"\n") else None), line


def _cut_last_episode(path: Path) -> None:
    """Remove an episode of which a kill has cut a line, together with its whole lines: they alone would be read as the episode."""
    with path.open("rb") as file:
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
        if file.read(1) in (b"", b"\n"):
            return
    begin = end = 0  # of the lines of the last episode of which a line is whole
    last, head = None, b""
    for episode_id, line in _lines(path):
        if not line.endswith(b"\n"):
            found = _BEGIN.match(line)
            same = json.loads(found[1]) == last if found else head.startswith(line)  # the id itself may be cut
            os.truncate(path, begin if same else end)
            return
        if episode_id is None or episode_id != last:
            begin, last, head = end, episode_id, line
        end += len(line)


def _append(directory: Path, path: Path, episode: Episode) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    append(path, "".join(saved(directory, [episode])).encode())


def saved(directory: Path, episodes: Iterable[Episode]) -> Iterator[str]:
    """The lines of a file. Images are saved before the line that names them, so that no line ever names a missing one."""
    for episode in episodes:
        for sha, png in episode.images.items():
            path = directory / "images" / f"{sha}.png"
            if not path.exists():
                write_file(path, png)
        for chain in episode.chains:
            yield chain.to_json() + "\n"
