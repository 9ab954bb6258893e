"""Checks of trajectory files: what `toolwise lint` says of them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from rollout.tokens.chat_format import ChatFormat
from rollout.types import Trajectory


def lint(path: str | Path, chat: ChatFormat | None = None) -> list[str]:
    """Problems of a trajectory file, or of all files in a directory, one line each and none where all is well.

    Checked of each record: it is built without error (lengths, mask, versions, log-probabilities); as many sampled runs as turns,
    each of one version; the turns' images are the last of the episode's; every image is there and is what its name says. With
    `chat`, that placeholders and images agree in number. Of a file: no episode twice, one prompt per group. Raises
    FileNotFoundError.
    """
    path = Path(path)
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    if not files:
        raise FileNotFoundError(f"there is no trajectory file (*.jsonl) in {path}")
    images: dict[Path, str | None] = {}
    return [f"{file.name}{problem}" for file in files for problem in _lint_file(file, chat, images)]


def _lint_file(path: Path, chat: ChatFormat | None, images: dict[Path, str | None]) -> Iterator[str]:
    seen: set[tuple[str, int]] = set()
    prompts: dict[str, list[int]] = {}
    # Not splitlines: text of an observation may hold separators that JSON does not escape.
    for number, line in enumerate(path.read_text(encoding="utf-8").removesuffix("\n").split("\n"), start=1):
        try:
            trajectory = Trajectory.from_json(line)
        except ValueError as error:
            yield f":{number}: {error}"
            continue
        where = f":{number}: {trajectory.episode_id}"
        if (trajectory.episode_id, trajectory.chain) in seen:
            yield f"{where}: the episode is there twice"
        seen.add((trajectory.episode_id, trajectory.chain))
        prompt = trajectory.token_ids[: trajectory.prompt_length]
        if prompt and not trajectory.chain and prompts.setdefault(trajectory.group_id, prompt) != prompt:
            yield f"{where}: its prompt differs from that of its group {trajectory.group_id}"
        for problem in (*_lint_turns(trajectory), *_lint_images(trajectory, path.parent / "images", chat, images)):
            yield f"{where}: {problem}"


def _lint_turns(trajectory: Trajectory) -> Iterator[str]:
    runs = [list(run) for sampled, run in groupby(trajectory.versions, key=lambda version: version >= 0) if sampled]
    if len(runs) != len(trajectory.turns):
        yield f"{len(runs)} sampled runs of tokens, but {len(trajectory.turns)} turns"
    if any(len(set(run)) > 1 for run in runs):
        yield "one turn was sampled by several policy versions"
    shown = [image for turn in trajectory.turns for image in turn.images]
    if shown and trajectory.images[-len(shown) :] != shown:
        yield "the images of its turns are not the last of its images"


def _lint_images(trajectory: Trajectory, directory: Path, chat: ChatFormat | None, known: dict[Path, str | None]) -> Iterator[str]:
    for sha in dict.fromkeys(trajectory.images):
        path = directory / f"{sha}.png"
        if path not in known:
            known[path] = _lint_image(path, sha)
        if known[path] is not None:
            yield str(known[path])
    if chat is not None:
        placeholders = sum(1 for token, _ in groupby(trajectory.token_ids) if token == chat.image_token)
        if placeholders != len(trajectory.images):
            yield f"{placeholders} runs of image placeholders, but {len(trajectory.images)} images"


def _lint_image(path: Path, sha: str) -> str | None:
    if not re.fullmatch("[0-9a-f]{64}", sha):
        return f"image name {sha!r} is not a sha256"
    if not path.exists():
        return f"image {path.name} is missing"
    if hashlib.sha256(path.read_bytes()).hexdigest() != sha:
        return f"image {path.name} is not what its name says"
    return None
