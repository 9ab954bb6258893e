"""Demonstrations from stored episodes: what `toolwise collect` wrote of a teacher, or any other trajectory files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from curation.verify import is_verified
from envs.errors import UsageError
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


def read_episodes(path: str | Path, chat: ChatFormat, *, count: int | None, seed: int) -> tuple[list[Episode], int]:
    """`count` of the verified episodes, drawn by `seed` without replacement, None for all; and how many were not verified.

    Raises UsageError if there are fewer, if the files are broken, and if they were recorded in the tokens of another policy.
    """
    path = Path(path)
    try:
        if path.is_dir():
            store = Store(path)
            episodes = [episode for name in store.names() for episode in store.read(name)]
        else:
            episodes = list(Store(_directory(path)).read(path.stem))
    except (ValueError, FileNotFoundError) as error:
        raise UsageError(f"{path}: {' '.join(str(error).split())} (`toolwise lint` names all such records)") from error
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
    return drawn, len(episodes) - len(verified)


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
