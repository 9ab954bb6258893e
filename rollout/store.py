"""Trajectory files: one JSON object per line in `trajectories/<name>.jsonl`, the images beside them as `images/<sha256>.png`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from envs.runtime.atomic import write_file
from rollout.types import Episode, Group, Trajectory, form_episodes, form_groups


class Store:
    """The trajectories of a run directory."""

    def __init__(self, run_directory: str | Path) -> None:
        self.directory = Path(run_directory) / "trajectories"
        self._images = self.directory / "images"

    def write(self, name: str, episodes: Iterable[Episode]) -> Path:
        """Write `<name>.jsonl` anew, whole or not at all: a step that is run again replaces its file. Returns its path."""
        path = self._path(name)
        write_file(path, "".join(self._save(episodes)))
        return path

    def append(self, name: str, episode: Episode) -> None:
        """Add one episode to `<name>.jsonl`: it is on disk when this returns."""
        self.directory.mkdir(parents=True, exist_ok=True)
        with self._path(name).open("a", encoding="utf-8") as file:
            file.write("".join(self._save([episode])))

    def read_unfinished(self, name: str) -> list[Episode]:
        """The episodes of a file that `append` made and that a kill may have cut: a last line without its end is left out."""
        path = self._path(name)
        if not path.exists():
            return []
        written = path.read_bytes()
        if not written.endswith(b"\n"):
            write_file(path, written[: written.rfind(b"\n") + 1])
        return list(self.read(name))

    def read(self, name: str, *, images: bool = True) -> Iterator[Episode]:
        """The episodes of a file, with their images unless statistics are all that is wanted.

        Raises ValueError for a broken record, FileNotFoundError for a missing file.
        """
        for episode in form_episodes(self.trajectories(name)):
            names = {sha for chain in episode.chains for sha in chain.images} if images else set()
            yield Episode(episode.chains, {sha: (self._images / f"{sha}.png").read_bytes() for sha in names})

    def groups(self, name: str, *, images: bool = True) -> list[Group]:
        """The groups of a file. Raises as `read`."""
        return form_groups(self.read(name, images=images))

    def trajectories(self, name: str) -> Iterator[Trajectory]:
        """The records of a file: one for each chain of an episode, without images. Raises as `read`."""
        with self._path(name).open(encoding="utf-8") as file:
            for line in file:
                yield Trajectory.from_json(line)

    def names(self) -> list[str]:
        """The names of all files, sorted."""
        return sorted(path.stem for path in self.directory.glob("*.jsonl"))

    def _path(self, name: str) -> Path:
        return self.directory / f"{name}.jsonl"

    def _save(self, episodes: Iterable[Episode]) -> Iterator[str]:
        """The lines of a file. Images are saved before the line that names them, so that no line ever names a missing one."""
        for episode in episodes:
            for sha, png in episode.images.items():
                path = self._images / f"{sha}.png"
                if not path.exists():
                    write_file(path, png)
            for chain in episode.chains:
                yield chain.to_json() + "\n"
