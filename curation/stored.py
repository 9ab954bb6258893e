"""Demonstrations from stored episodes: what `toolwise collect` wrote of a teacher, or any other trajectory files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from curation.forms import Form, same
from curation.verify import is_verified
from envs import resolve
from envs.errors import UsageError
from envs.protocols import Answer, Calls, Protocol
from envs.runtime.saved_settings import saved_settings
from rollout.store import Store
from rollout.tokens.chat_format import ChatFormat
from rollout.types import Episode, Trajectory

_COMPARED = 8  # episodes whose tokens are decoded


def named_by(path: str | Path) -> Path:
    """The file or directory that a path stands for: of a directory that `toolwise synthesize` wrote, the demonstrations that it
    kept, and not all that its teachers tried."""
    kept = Path(path) / "demonstrations.jsonl"
    return kept if kept.is_file() else Path(path)


def is_stored(path: str | Path) -> bool:
    """Whether a path is a run directory with `trajectories/`, or a file of trajectories, and not one of conversations."""
    path = Path(path)
    if path.is_dir():
        return (path / "trajectories").is_dir()
    if path.suffix != ".jsonl" or not path.is_file():
        return False
    with path.open(encoding="utf-8") as file:
        line = file.readline()
    return '"token_ids"' in line and '"loss_mask"' in line


def read_episodes(
    path: str | Path, chat: ChatFormat, *, count: int | None, seed: int, form: Form | None = None
) -> tuple[list[Episode], int]:
    """`count` of the verified episodes, drawn by `seed` without replacement, None for all; and how many were not verified.

    `form` is how the policy speaks. Raises UsageError if there are fewer, if the files are broken, and if they were recorded in
    the tokens of another policy or in another protocol.
    """
    path = Path(path)
    try:
        if path.is_dir():
            store = Store(path)
            episodes = [episode for name in store.names() for episode in store.read(name)]
        else:
            episodes = list(Store(_directory(path)).read(path.stem))
    except FileNotFoundError as error:
        raise UsageError(f"{path}: {' '.join(str(error).split())}") from error
    verified = [episode for episode in episodes if not episode.failed and is_verified(episode.trajectory)]
    wanted = len(verified) if count is None else count
    if not verified or len(verified) < wanted:
        raise UsageError(
            f"{path} has {len(verified)} verified demonstrations of {len(episodes)}: write demonstrations={len(verified)} or fewer"
        )
    chosen = np.random.default_rng(seed).permutation(len(verified))[:wanted]
    drawn = [verified[place] for place in chosen]
    for episode in drawn[:_COMPARED]:
        _require_same_tokens(path, episode.trajectory, chat)
    if form is not None:
        _require_same_protocol(path, drawn, form)
    return drawn, len(episodes) - len(verified)


def _require_same_protocol(path: Path, episodes: Sequence[Episode], form: Form) -> None:
    """Raise UsageError if the episodes were recorded in another protocol: by the settings of their run, or if those do not say,
    because their turns are other actions."""
    theirs, own = _form_of_run(path if path.is_dir() else _directory(path)), form.protocol
    if theirs is not None and same(theirs.protocol, own):
        return
    if theirs is None and all(_reads(episode.trajectory, own) for episode in episodes):
        return
    name = "another protocol" if theirs is None else f"the protocol {theirs.protocol.name}"
    options = " with other options" if theirs is not None and theirs.protocol.name == own.name else ""
    raise UsageError(
        f"{path} is recorded in {name}, and the tasks have {own.name}{options}: collect it with the same +options.protocol=, or "
        "write `toolwise export run=DIR format=messages images=inline only=right` and give the file that this writes: its "
        "conversations are learned in the tasks' protocol"
    )


def _form_of_run(directory: Path) -> Form | None:
    """How the policy of a run spoke; None if its settings do not say, are broken, or name tasks that are not there any more."""
    settings = directory / "config.yaml"
    if not settings.is_file():
        return None
    try:
        config = OmegaConf.to_container(saved_settings(settings))
        if not isinstance(config, dict) or not config.get("tasks"):
            return None
        return Form.of(resolve(str(config["tasks"]), {str(name): value for name, value in (config.get("options") or {}).items()}))
    except (UsageError, OmegaConfBaseException):
        return None


def _reads(trajectory: Trajectory, protocol: Protocol) -> bool:
    """Whether the protocol reads the turns as those that they were: calls, and at the end the answer."""
    actions = [protocol.parse(turn.action) for turn in trajectory.turns]
    called = all(isinstance(action, Calls) for action, turn in zip(actions, trajectory.turns, strict=True) if turn.tool_calls)
    return called and isinstance(actions[-1], Answer) and actions[-1].text == (trajectory.answer or "").strip()


def _directory(path: Path) -> Path:
    """The run directory of a file. Raises UsageError if the file is not in one's `trajectories/`, beside which its images are."""
    if path.parent.name != "trajectories":
        raise UsageError(f"{path}: write a file in a run's trajectories/, beside which images/ are, or the run's directory")
    return path.parent.parent


def _require_same_tokens(path: Path, trajectory: Trajectory, chat: ChatFormat) -> None:
    """Raise UsageError unless the sampled tokens spell the actions in the policy's tokenizer."""
    if speaks(trajectory, chat):
        return
    raise UsageError(
        f"{path}: {trajectory.episode_id} is recorded in the tokens of another policy: collect it with tokenizer= the policy that "
        "is trained, or give the conversations as messages"
    )


def speaks(trajectory: Trajectory, chat: ChatFormat) -> bool:
    """Whether the sampled tokens spell the actions in the policy's tokenizer."""
    try:
        said = chat.decode([token for token, mask in zip(trajectory.token_ids, trajectory.loss_mask, strict=True) if mask])
    except (OverflowError, TypeError, ValueError, IndexError):
        return False
    spelt = "".join(said.split())
    return all("".join(turn.action.split()) in spelt for turn in trajectory.turns)
