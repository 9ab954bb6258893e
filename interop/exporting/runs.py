"""A run that is read to be exported: one episode in memory at a time, and what cannot be read is counted."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from curation.stored import speaks
from envs.errors import UsageError
from envs.protocols.opening import open_protocol
from envs.runtime.regular_file import open_file
from interop.exporting.conversation import Conversation, Conversations
from interop.settings import ExportConfig, Only
from rollout.store import Store, name_of
from rollout.tokens.chat_format import ChatFormat
from rollout.types import Episode, Trajectory
from starter.policies import find_policy, policies_of

_SHA256 = re.compile("[0-9a-f]{64}")
_COMPARED = 8  # episodes of which it is looked whether they are in the policy's tokens
_NAMED = 3  # broken lines that are named


@dataclass(slots=True)
class Notes:
    """What was left out or changed, each kind with its number, and where it was seen first."""

    counts: Counter[str] = field(default_factory=Counter)
    places: dict[str, list[str]] = field(default_factory=dict)

    def add(self, what: str, place: str = "") -> None:
        """Count one; the first few places are kept."""
        self.counts[what] += 1
        if place and len(known := self.places.setdefault(what, [])) < _NAMED:
            known.append(place)

    def lines(self) -> list[str]:
        """One line for each kind."""
        return [f"{what}: {count}{self._where(what)}" for what, count in self.counts.items()]

    def _where(self, what: str) -> str:
        known = self.places.get(what)
        return f" ({', '.join(known)}{', …' if self.counts[what] > len(known) else ''})" if known else ""


class Source:
    """The run that is exported: its files by name, its policy's chat format, its images.

    `notes` counts what cannot be read. Raises UsageError if there is no run, no such name, or no policy.
    """

    def __init__(self, config: ExportConfig) -> None:
        self._config = config
        self.directory = Path(config.run)
        if not config.run or not (self.directory / "trajectories").is_dir():
            found = f"there is no run at {config.run}" if config.run else "no run is named"
            raise UsageError(f"{found}: write run= a directory with trajectories/, as in run=runs/demo")
        self.store = Store(self.directory)
        known = self.store.names()
        if not known:
            raise UsageError(f"{self.store.directory} has no trajectory file (*.jsonl): write another run=")
        self.names = known if config.names is None else list(dict.fromkeys(config.names))
        if missing := [name for name in self.names if name not in known]:
            shown = ", ".join(known[:4]) + (f", … {known[-1]}" if len(known) > 5 else "".join(f", {name}" for name in known[4:]))
            raise UsageError(f"{config.run} has no {', '.join(missing)}: write names= some of {shown}")
        self.settings = _settings(self.directory)
        self._directory = _tokens(config, self.directory, self.settings)
        self.policy = str(self.settings.get("policy") or config.policy or self._directory)
        self.protocol = open_protocol(config.protocol or (self.settings.get("options") or {}).get("protocol") or "deepeyes")
        self.notes = Notes()
        self._missing: set[str] = set()

    def load(self) -> None:
        """Read the policy's tokenizer, which takes a second or two. Raises UsageError if it cannot be used."""
        self.chat = ChatFormat.from_directory(self._directory)
        self._conversations = Conversations(self.chat, self.protocol)

    @property
    def label(self) -> str:
        """The run's name."""
        return self.directory.resolve().name

    def conversations(self, name: str) -> Iterator[Conversation]:
        """The episodes of a name that are wanted. Raises UsageError if they are in the tokens of another policy."""
        compared = 0
        for episode in self._episodes(name):
            record = episode.trajectory
            if self._config.only is Only.right and (record.failed or not record.correct):
                self.notes.add("episodes left out by only=right")
                continue
            if compared < _COMPARED and record.turns:
                compared += 1
                if not speaks(record, self.chat):
                    raise UsageError(
                        f"{name}, {record.episode_id}: it is not in the tokens of {self._directory}: write policy= the policy that "
                        "the run was sampled from, or written for"
                    )
            try:
                made = self._conversations.of(name, episode)
            except (OverflowError, TypeError, ValueError, IndexError):
                self.notes.add("episodes left out, since the policy has no such tokens", f"{name}, {record.episode_id}")
                continue
            if not made.roles_known:
                self.notes.add("prompts that are one message of the user, since their roles cannot be told apart")
            yield made

    def unfinished(self) -> list[str]:
        """The files of these names that are being written, or that a kill left behind."""
        return [path.name for path in self.store.unfinished() if name_of(path) in self.names]

    def image(self, sha: str) -> Path | None:
        """The file of an image; None, and counted, if it is missing or its name is none."""
        path = self.store.image(sha)
        if path is not None:
            return path
        if sha not in self._missing:
            self._missing.add(sha)
            self.notes.add("images that are missing", f"{sha[:12]}…" if _SHA256.fullmatch(sha) else repr(sha[:40]))
        return None

    def _episodes(self, name: str) -> Iterator[Episode]:
        chains: list[Trajectory] = []
        for path in self.store.paths(name):
            for trajectory in self._records(path):
                if chains and (trajectory.chain == 0 or trajectory.episode_id != chains[0].episode_id):
                    yield from self._whole(chains)
                    chains = []
                chains.append(trajectory)
        if chains:
            yield from self._whole(chains)

    def _whole(self, chains: Sequence[Trajectory]) -> Iterator[Episode]:
        if [chain.chain for chain in chains] == list(range(len(chains))):
            yield Episode(tuple(chains))
        else:
            self.notes.add("episodes left out, since one of their chains cannot be read", chains[0].episode_id)

    def _records(self, path: Path) -> Iterator[Trajectory]:
        try:
            opened = open_file(path)
        except OSError:
            self.notes.add("files left out, since they cannot be read", path.name)
            return
        with opened as file:
            for number, line in enumerate(file, 1):
                try:
                    yield Trajectory.from_json(line.decode())
                except (ValueError, TypeError, RecursionError):
                    self.notes.add("broken lines left out", f"{path.name}:{number}")


def _settings(directory: Path) -> Mapping[str, Any]:
    """The run's `config.yaml`, empty if it has none. Raises UsageError if it cannot be read."""
    path = directory / "config.yaml"
    if not path.is_file():
        return {}
    try:
        made = OmegaConf.to_container(OmegaConf.load(path))
    except (OSError, ValueError, OmegaConfBaseException, YAMLError) as error:
        raise UsageError(f"{path}: {' '.join(str(error).split())}: correct it") from error
    return {str(name): value for name, value in made.items()} if isinstance(made, dict) else {}


def _tokens(config: ExportConfig, directory: Path, settings: Mapping[str, Any]) -> str:
    """The directory of the policy in whose tokens the run is. Raises UsageError if there is none."""
    if config.policy:
        return find_policy(config.policy)
    if (found := next(policies_of(directory, settings), None)) is not None:
        return found
    remedy, named = "write policy= the policy in whose tokens it is", settings.get("policy")
    if not named:
        raise UsageError(f"{directory} has no checkpoints/, and no config.yaml that names a policy: {remedy}")
    raise UsageError(f"{directory} is of the policy {named}, which is not there, and has no checkpoints/: {remedy}")
