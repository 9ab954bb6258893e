"""Checks of trajectory files: what `toolwise lint` says of them."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from PIL import Image

from envs.runtime.regular_file import open_file
from rollout.store import name_of
from rollout.tokens.chat_format import ChatFormat
from rollout.types import Trajectory

_OUTCOME = ("task_id", "group_id", "abilities", "reward", "reward_parts", "answer", "stop_reason", "error", "cut", "cut_before")


def lint(path: str | Path, chat: ChatFormat | None = None) -> list[str]:
    """Problems of a trajectory file, or of all files in a directory, one line each; none if all is well.

    Each record, which is one chain of an episode, is built without error (lengths, mask, versions, log-probabilities); it has as
    many sampled runs of tokens as turns; versions never fall, but may rise within a run, while which new weights arrived; the
    images that its turns were shown are the last of its images; every image is there and is what its name says. With `chat`, there
    are as many placeholders as the images take. The chains of an episode follow each other, each once; they carry the same outcome;
    no turn is in two of them. The episodes of a group share their prompt, in whichever shards of a name they are. A file that
    cannot be read, or is no regular one, is a problem of its own and is not waited for. Raises FileNotFoundError if there is none.
    """
    path = Path(path)
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    if not files:
        raise FileNotFoundError(f"there is no trajectory file (*.jsonl) in {path}")
    images: dict[Path, str | None] = {}
    known: defaultdict[str, _Known] = defaultdict(_Known)
    problems = []
    for file in files:
        try:
            with open_file(file) as opened:
                content = opened.read()
        except OSError as error:
            problems.append(f"{file.name}: it cannot be read: {error}")
            continue
        found = _lint_file(content, file.parent / "images", chat, images, known[name_of(file)])
        problems += [f"{file.name}:{number}: {problem}" for number, problem in found]
    return problems


@dataclass(slots=True)
class _Known:
    """What was read of a name, in all its shards so far: its chains, and the prompt of each group."""

    chains: set[tuple[str, int]] = field(default_factory=set)
    prompts: dict[str, list[int]] = field(default_factory=dict)


def _lint_file(
    content: bytes, directory: Path, chat: ChatFormat | None, images: dict[Path, str | None], known: _Known
) -> list[tuple[int, str]]:
    """Line numbers, in order, and the problem of each."""
    problems: list[tuple[int, str]] = []
    records: list[tuple[int, Trajectory]] = []
    # Not splitlines: text of an observation may hold separators that JSON does not escape.
    for number, line in enumerate(content.removesuffix(b"\n").split(b"\n"), start=1):
        try:
            records.append((number, Trajectory.from_json(line.decode("utf-8"))))
        except ValueError as error:
            problems.append((number, str(error)))
    for episode_id, group in groupby(records, key=lambda record: record[1].episode_id):
        numbers, chains = zip(*group, strict=True)
        for place, (number, chain) in enumerate(zip(numbers, chains, strict=True)):
            prompt = chain.token_ids[: chain.prompt_length]
            if (episode_id, chain.chain) in known.chains:
                problems.append((number, f"{episode_id}: chain {chain.chain} of the episode is there twice"))
            elif not chain.chain and prompt and known.prompts.setdefault(chain.group_id, prompt) != prompt:
                problems.append((number, f"{episode_id}: its prompt differs from that of its group {chain.group_id}"))
            known.chains.add((episode_id, chain.chain))
            for problem in (
                *_lint_chain(chains, place),
                *_lint_turns(chain, is_last=place == len(chains) - 1),
                *_lint_images(chain, directory, chat, images),
            ):
                problems.append((number, f"{episode_id}: {problem}"))
    return sorted(problems, key=lambda problem: problem[0])


def _lint_chain(chains: Sequence[Trajectory], place: int) -> Iterator[str]:
    """Problems of a chain as one of its episode's."""
    chain, earlier = chains[place], chains[:place]
    if chain.chain != place:
        yield f"chain {chain.chain} stands in the place of chain {place}"
    if differing := [name for name in _OUTCOME if getattr(chain, name) != getattr(chains[0], name)]:
        yield f"its chains differ in {', '.join(differing)}"
    # Turns that are equal in what was sampled and in the time that it took, to the last bit, are one turn.
    known = {signature for other in earlier for signature in _signatures(other)}
    if not known.isdisjoint(_signatures(chain)):
        yield f"chain {chain.chain} repeats a turn that was sampled in an earlier chain: each sampled token belongs to one chain"


def _signatures(chain: Trajectory) -> Iterator[tuple[tuple[int, ...], tuple[float, ...], float]]:
    for (start, end), turn in zip(sampled_runs(chain), chain.turns, strict=False):
        if turn.generate_s:
            yield tuple(chain.token_ids[start:end]), tuple(chain.logprobs[start:end]), turn.generate_s


def sampled_runs(chain: Trajectory) -> list[tuple[int, int]]:
    """Start and end of every run of sampled tokens."""
    edges = [
        place
        for place, (mask, before) in enumerate(zip([*chain.loss_mask, 0], [0, *chain.loss_mask], strict=True))
        if mask != before
    ]
    return list(zip(edges[::2], edges[1::2], strict=True))


def _lint_turns(chain: Trajectory, is_last: bool) -> Iterator[str]:
    runs = sampled_runs(chain)
    if len(runs) != len(chain.turns):
        yield f"{len(runs)} sampled runs of tokens, but {len(chain.turns)} turns"
    versions = [version for start, end in runs for version in chain.versions[start:end]]
    if versions != sorted(versions):
        yield "later tokens were sampled by an older policy version than earlier ones"
    # What an earlier chain's last turn was shown begins the next chain.
    shown = [image for turn in (chain.turns if is_last else chain.turns[:-1]) for image in turn.images]
    if shown and chain.images[-len(shown) :] != shown:
        yield "the images of its turns are not the last of its images"


def _lint_images(chain: Trajectory, directory: Path, chat: ChatFormat | None, known: dict[Path, str | None]) -> Iterator[str]:
    for sha in dict.fromkeys(chain.images):
        path = directory / f"{sha}.png"
        if path not in known:
            known[path] = _lint_image(path, sha)
        if known[path] is not None:
            yield str(known[path])
    if chat is not None and all(known[directory / f"{sha}.png"] is None for sha in chain.images):
        yield from _lint_placeholders(chain, directory, chat)


def _lint_placeholders(chain: Trajectory, directory: Path, chat: ChatFormat) -> Iterator[str]:
    if chat.images is None:
        if chain.images:
            yield f"{len(chain.images)} images, but the policy takes none"
        return
    placeholders, needed = chain.token_ids.count(chat.images.token_id), 0
    for sha in chain.images:
        with Image.open(directory / f"{sha}.png") as image:
            needed += chat.images.placeholders(image.height, image.width)
    if placeholders != needed:
        yield f"{placeholders} image placeholders, but its {len(chain.images)} images take {needed}"


def _lint_image(path: Path, sha: str) -> str | None:
    if not re.fullmatch("[0-9a-f]{64}", sha):
        return f"image name {sha!r} is not a sha256"
    try:
        with open_file(path) as file:
            digest = hashlib.sha256(file.read()).hexdigest()
    except FileNotFoundError:
        return f"image {path.name} is missing"
    except OSError as error:
        return f"image {path.name} cannot be read: {error}"
    return None if digest == sha else f"image {path.name} is not what its name says"
