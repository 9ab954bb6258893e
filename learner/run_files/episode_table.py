"""The table of a step's episodes that W&B shows: question, turns, pictures, outcome."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from rollout.store import Store
from rollout.types import Episode, Trajectory

PICTURES = 3
"""Pictures of an episode that are shown: the question's first."""

COLUMNS = (
    *("step", "task_id", "question", "abilities", "needs_tool", "turns", "answer", "right", "reward", "reward_parts"),
    *("tool_calls", "tool_status", "stop_reason", *(f"image_{number}" for number in range(1, PICTURES + 1))),
)
_LONGEST_TEXT = 8000
_LARGEST_SIDE = 512
_EACH_GROUP = 4
_POLL_S = 0.2


Scores = Mapping[str, tuple[float, Mapping[str, float]]]
"""The reward of an episode and its parts, by `episode_id`."""


def episode_rows(
    run: Path,
    name: str,
    step: int,
    *,
    most: int,
    question: Callable[[Trajectory], str],
    scores: Scores | None = None,
    wait_s: float = 30.0,
) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows of the first `most` episodes of `trajectories/<name>`, four of a group at most.

    `scores` are what is learned from: stored episodes lack the parts of the reward that compare a group. Longer texts are cut after
    8,000 characters, and say so. Workers write the episodes in the background: waits for `wait_s` seconds. Pictures are at most 512
    pixels a side. Raises FileNotFoundError if the file is not there by then.
    """
    store = Store(run)
    until = time.monotonic() + wait_s
    while not store.paths(name) and time.monotonic() < until:
        time.sleep(_POLL_S)
    rows: list[list[Any]] = []
    members: Counter[str] = Counter()
    for episode in store.read(name, images=False):
        whole = episode.trajectory
        if whole.failed or members[whole.group_id] >= _EACH_GROUP:
            continue
        members[whole.group_id] += 1
        score = (scores or {}).get(whole.episode_id, (whole.reward, whole.reward_parts))
        rows.append(_row(store, episode, step, question, *score))
        if len(rows) >= most:
            break
    return list(COLUMNS), rows


def _row(
    store: Store,
    episode: Episode,
    step: int,
    question: Callable[[Trajectory], str],
    reward: float,
    reward_parts: Mapping[str, float],
) -> list[Any]:
    whole = episode.trajectory
    turns = "\n\n".join(
        f"[{number}] {turn.action}" + (f"\n-> {turn.observation}" if turn.observation else "")
        for number, turn in enumerate(whole.turns, 1)
    )
    names = list(dict.fromkeys(whole.images))[:PICTURES]
    pictures: list[Image.Image | None] = [_picture(store.directory / "images" / f"{name}.png") for name in names]
    return [
        step,
        whole.task_id,
        _cut(question(whole)),
        ", ".join(whole.abilities),
        "unknown" if whole.needs_tool is None else "yes" if whole.needs_tool else "no",
        _cut(turns),
        _cut(whole.answer or ""),
        whole.correct,
        reward,
        ", ".join(f"{name} {value:g}" for name, value in reward_parts.items()),
        len(whole.calls),
        ", ".join(f"{call.tool} {call.status}" for call in whole.calls),
        str(whole.stop_reason),
        *pictures,
        *[None] * (PICTURES - len(pictures)),
    ]


def _cut(text: str) -> str:
    left = len(text) - _LONGEST_TEXT
    return text if left <= 0 else f"{text[:_LONGEST_TEXT]}… ({left:,} more characters)"


def _picture(path: Path) -> Image.Image:
    with Image.open(path) as opened:
        picture = opened.convert("RGB")
    picture.thumbnail((_LARGEST_SIDE, _LARGEST_SIDE))
    return picture
