"""A few episodes of a run, as a page shows them: a needed call, a needless one, a failed one, and an answer without a call."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from envs.runtime.regular_file import open_file
from evaluation.pages.document import shown
from rollout.store import Store
from rollout.types import Trajectory, Turn, form_episodes

Question = Callable[[Trajectory], str]
"""The text of an episode's prompt: a record holds no other text of the question."""

_KINDS: Mapping[str, Callable[[Trajectory], bool]] = {
    "Right, with a call that was needed": lambda one: (
        one.correct and one.needs_tool is True and one.tool_calls > 0 and all(turn.succeeded for turn in one.turns)
    ),
    "A call that was not needed": lambda one: one.needs_tool is False and one.tool_calls > 0,
    "A failed call": lambda one: not all(turn.succeeded for turn in one.turns),
    "Right without a call": lambda one: one.correct and one.tool_calls == 0,
    "Wrong": lambda one: not one.correct and not one.unplayed,
}
_MOST_READ, _LONGEST, _SIDE, _PICTURES, _TURNS = 3000, 3000, 160, 4, 12


@dataclass(frozen=True, slots=True)
class Examples:
    """An episode of each kind that was found, by the kind and with the step of its file; how many episodes were looked at, and how
    many of their lines could not be read."""

    episodes: Mapping[str, tuple[str, Trajectory]]
    read: int
    broken: int


def find_examples(run: Path) -> Examples:
    """The latest episode of each kind, so that it shows the policy as it is; at most 3,000 episodes are looked at."""
    store, found, read, broken = Store(run), {}, 0, [0]
    for name in _latest_first(store):
        for one in _episodes(store, name, broken):
            read += 1
            for kind, holds in _KINDS.items():
                if kind not in found and not one.failed and holds(one):
                    found[kind] = (name, one)
                    break
            if len(found) == len(_KINDS) or read >= _MOST_READ:
                return Examples({kind: found[kind] for kind in _KINDS if kind in found}, read, broken[0])
    return Examples({kind: found[kind] for kind in _KINDS if kind in found}, read, broken[0])


def example(run: Path, kind: str, name: str, episode: Trajectory, question: Question | None) -> str:
    """An episode as HTML: its question and its turns, with small pictures; texts of more than 3,000 characters are cut."""
    prompt = _question(episode, question)
    named = [sha for turn in episode.turns for sha in turn.images]
    first = [sha for sha in dict.fromkeys(episode.images) if sha not in named]
    parts = ", ".join(f"{part} {value:g}" for part, value in episode.reward_parts.items())
    needs = {None: "unknown", True: ", ".join(episode.needed_tools or ()), False: "none"}[episode.needs_tool]
    facts = [
        f"task {episode.task_id} ({', '.join(episode.abilities) or 'no ability'}), tools needed: {needs}, from {name}",
        f"answer {episode.answer!r}, {'right' if episode.correct else 'wrong'}, reward {episode.reward:g}"
        + (f" ({parts})" if parts else "")
        + f", ended as {episode.stop_reason}",
    ]
    turns = [_turn(run, number, turn) for number, turn in enumerate(episode.turns[:_TURNS], 1)]
    more = len(episode.turns) - len(turns)
    return (
        f'<article><h3>{shown(kind)}</h3><p class="soft">{"<br>".join(map(shown, facts))}</p>'
        f'<div class="question">{_pictures(run, first)}<pre>{shown(_cut(prompt))}</pre></div>{"".join(turns)}'
        f"{f'<p>… and {more} more turns</p>' if more > 0 else ''}</article>"
    )


def _latest_first(store: Store) -> Iterator[str]:
    """The files of episodes that the policy played, the newest first; not the demonstrations."""
    names = [name for name in store.names() if name not in ("demonstrations", "rehearsal")]
    played = sorted((name for name in names if name.startswith("rl_")), reverse=True)
    first = [name for name in ("episodes", *played) if name in names]
    yield from dict.fromkeys([*first, *names])


def _episodes(store: Store, name: str, broken: list[int]) -> Iterator[Trajectory]:
    """The episodes of a file, each in one record; `broken` counts the lines that are no record, and files that cannot be read."""

    def records() -> Iterator[Trajectory]:
        for path in store.paths(name):
            try:
                file = io.TextIOWrapper(open_file(path), encoding="utf-8", errors="replace")
            except OSError:
                broken[0] += 1
                continue
            with file:
                for line in file:
                    try:
                        yield Trajectory.from_json(line)
                    except (ValueError, RecursionError, OverflowError):
                        broken[0] += 1

    for episode in form_episodes(records()):
        yield episode.trajectory


def _question(episode: Trajectory, question: Question | None) -> str:
    if question is None:
        return "(the question is not shown: its tokens need the policy's tokenizer)"
    try:
        return question(episode)
    except Exception as error:
        # Whatever a foreign tokenizer raises, the rest of the page is worth having.
        return f"(the question is not shown: {type(error).__name__}: {' '.join(str(error).split())[:200]})"


def _turn(run: Path, number: int, turn: Turn) -> str:
    calls = ", ".join(f"{call.tool}: {call.status}, {call.latency_s:.2f} s" for call in turn.tool_calls)
    thoughts = f'<pre class="soft">{shown(_cut(turn.reasoning))}</pre>' if turn.reasoning else ""
    observation = f"<pre>{shown(_cut(turn.observation))}</pre>" if turn.observation else ""
    said = f'<p class="soft">Turn {number}{f" – {shown(calls)}" if calls else ""}</p>'
    action = f"<pre>{shown(_cut(turn.action))}</pre>"
    return f'<div class="turn">{said}{thoughts}{action}{observation}{_pictures(run, turn.images)}</div>'


def _cut(text: str) -> str:
    left = len(text) - _LONGEST
    return text if left <= 0 else f"{text[:_LONGEST]}… ({left:,} more characters)"


def _pictures(run: Path, names: Sequence[str]) -> str:
    parts = [_picture(run, name) for name in names[:_PICTURES]]
    more = f'<span class="soft"> and {len(names) - _PICTURES} more pictures</span>' if len(names) > _PICTURES else ""
    return "".join(parts) + more


def _picture(run: Path, name: str) -> str:
    """A small copy of a stored picture within the page; words if it cannot be read."""
    path = Store(run).image(name)
    if path is None:
        return f'<span class="soft"> (picture {shown(name[:12])} is not there)</span>'
    try:
        # PNG alone: Pillow would hand some other formats to programs of their own.
        with Image.open(path, formats=["PNG"]) as opened:
            width, height = opened.size
            small = opened.convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        return f'<span class="soft"> (picture {shown(name[:12])} cannot be read: {shown(type(error).__name__)})</span>'
    small.thumbnail((_SIDE, _SIDE))
    buffer = io.BytesIO()
    small.save(buffer, "PNG", optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode()
    size = f'width="{small.width}" height="{small.height}" alt="picture of {width} × {height} pixels"'
    return f'<img src="data:image/png;base64,{data}" {size}>'
