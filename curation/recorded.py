"""Recorded demonstrations from a file, like DeepEyesV2's for the cold start, as episodes in a policy's own tokens.

A row that `toolwise synthesize` wrote is taken as it stands (`curation.rows`), any other is a conversation
(`curation.conversations`). What is in another protocol than the policy's is written in that (`curation.forms`). The assistant's
turns are learned; tool outputs are treated as in any episode: escaped, masked, cut to the episode's budgets.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from curation.conversations import conversation_demonstration, require_demonstration
from curation.forms import Form, rendered, same
from curation.rows import Demonstration, DemonstrationTurn, demonstration, is_row
from envs.datasets.columns import cleaned, parsed, unread
from envs.datasets.rows import open_rows
from envs.datasets.types import report_malformed
from envs.errors import ItemError, RowError, TokenBudgetExceeded, UsageError
from envs.pictures import decode, require_whole
from envs.protocols import Answer, Calls
from envs.types import ToolStatus
from rollout.config import PROTOCOL_PROMPT, EpisodeConfig
from rollout.episode.actors import OPENING, closed
from rollout.episode.prompts import explained
from rollout.tokens.chat_format import ChatFormat, ChatMessage
from rollout.tokens.images import ImageEncoder, limited
from rollout.tokens.transcript import Transcript
from rollout.types import Episode, Generation, StopReason, ToolCallRecord, Turn, split_abilities

log = logging.getLogger(__name__)

_EXPORTED = frozenset({"abilities", "reward_parts", "turns"})  # what of `toolwise export`'s columns is read
_METRIC_NAMES = {"search": "text_search"}  # a model calls the text search by another name


def read_demonstrations(
    path: str | Path,
    chat: ChatFormat,
    config: EpisodeConfig,
    *,
    count: int | None,
    seed: int,
    malformed: str = "error",
    form: Form | None = None,
) -> list[Episode]:
    """`count` of the file's demonstrations, drawn by `seed` without replacement, None for all. Their answers are taken to be right.

    `form` is how the policy speaks; without it, conversations are written in DeepEyesV2's protocol and other rows stay in theirs.
    All rows are checked first. Those of them that are longer than `config.max_tokens` are counted, and are malformed. Raises
    DatasetError as `envs.datasets.Dataset` does, and UsageError if the file has fewer demonstrations, or the system prompt is
    unknown.
    """
    path = Path(path)
    if not path.exists():
        raise UsageError(f"there is no file of demonstrations {path}: write one of conversations, or a run with trajectories/")
    rows, good, bad = open_rows(path, None), list[int](), list[tuple[int, str]]()
    others, changes, unknown = set[str](), Counter[str](), Counter[str]()
    for number, row in rows:
        try:
            if isinstance(row, RowError):
                raise row
            made = _read(row, path.parent, form)
            for picture in [one for turn in made.turns for shown in turn.shown for one in shown.pictures]:
                require_whole(picture)
            good.append(number)
            changes.update(made.changes)
            unknown.update(set(form.unknown(made)) if form else ())
            others |= set() if is_row(row) else (unread(cleaned(row)) - _EXPORTED) | ({"tools"} & row.keys())
        except RowError as error:
            bad.append((number, str(error)))
    if others:
        log.warning("%s: columns that are not read: %s", path, ", ".join(sorted(others)))
    for change, number in changes.items():
        log.warning("%s: %d demonstrations %s", path, number, change)
    for tool, number in unknown.items():
        log.warning("%s: %d demonstrations call the tool %s, which the tasks do not have: see +options.tools", path, number, tool)
    report_malformed(path, bad, malformed)
    wanted = len(good) if count is None else count
    if not good or len(good) < wanted:
        raise UsageError(f"{path} has {len(good)} demonstrations: write cold_start.demonstrations={len(good)} or fewer")
    episodes: list[Episode] = []
    long: list[tuple[int, str]] = []
    for number in np.random.default_rng(seed).permutation(good).tolist():
        if len(episodes) + (0 if malformed == "skip" else len(long)) == wanted:
            break
        try:
            episodes.append(_episode(_read(rows[number], path.parent, form), rows[number], path, number, chat, config))
        except TokenBudgetExceeded as error:
            long.append((number, f"longer than rollout.episode.max_tokens={config.max_tokens} ({error}): raise it"))
    report_malformed(path, sorted(long), malformed)
    if not episodes or (count is not None and len(episodes) < count):
        raise UsageError(
            f"{path} has {len(episodes)} demonstrations of at most rollout.episode.max_tokens={config.max_tokens}: raise it, or "
            f"write cold_start.demonstrations={len(episodes)}"
        )
    return episodes


def _read(row: Mapping[str, Any], folder: Path, form: Form | None) -> Demonstration:
    """The demonstration of a row, in the protocol of `form`. Raises RowError if it is none."""
    if not is_row(row):
        return conversation_demonstration(row, folder, form)
    made = demonstration(row, folder)
    require_demonstration(made.turns)
    if form is None or same(made.protocol, form.protocol):
        return made
    return rendered(made, form)


def _system_prompt(made: Demonstration, config: EpisodeConfig, tools_shown: bool) -> str | None:
    """The configured prompt, and the row's own. Raises UsageError if the protocol is to be explained and the row does not do it."""
    own = made.system
    if made.guides is not None:
        return _joined(explained(made.protocol, made.instructions, config, tools_shown), own)
    if config.system_prompt == PROTOCOL_PROMPT:
        if own is None:
            raise UsageError(
                "rollout.episode.system_prompt=protocol explains the tools of an environment, and recorded demonstrations have "
                "none: give the rows a system message, or write the prompt's text"
            )
        return own
    return _joined(config.system_prompt, own)


def _joined(*parts: str | None) -> str | None:
    return "\n\n".join(dict.fromkeys(part for part in parts if part)) or None


def _episode(
    made: Demonstration, row: Mapping[str, Any], path: Path, number: int, chat: ChatFormat, config: EpisodeConfig
) -> Episode:
    """The episode of a row. Raises TokenBudgetExceeded if it is too long."""
    protocol, opening = made.protocol, OPENING if chat.opens_thoughts else ""
    turns = [replace(turn, action=closed(turn.action, opening)) for turn in made.turns]
    tools = [guide.schema for guide in made.guides or ()] if protocol.tools_in_template and chat.shows_tools else None
    transcript = Transcript(
        chat,
        max_tokens=config.max_tokens,
        observation_tokens=config.max_observation_tokens,
        system_prompt=_system_prompt(made, config, tools is not None),
        tools=tools,
        history=config.history,
    )
    images = ImageEncoder()
    recorded: list[Turn] = []
    for index, turn in enumerate(turns):
        messages = []
        for shown in turn.shown:
            try:
                pixels = [np.asarray(decode(source)) for source in shown.pictures]
            except RowError as error:
                raise ItemError(f"{path}, row {number}: {error}") from None
            encoded = tuple(images.encode(limited(image, config.max_pixels)) for image in pixels)
            messages.append(ChatMessage(shown.role, shown.text, encoded))
        messages = transcript.append_observation(messages)
        if index:
            text = "\n".join(message.text for message in messages)
            recorded.append(_turn(turns[index - 1], text, [image.sha256 for message in messages for image in message.images]))
        token_ids = chat.encode_action(turn.action, protocol.stop)
        if len(token_ids) > transcript.room:
            raise TokenBudgetExceeded(f"an action of {len(token_ids)} tokens, {transcript.room} are left")
        transcript.append_generation(Generation(token_ids, [0.0] * len(token_ids), "stop", 0))
    recorded.append(_turn(turns[-1], "", []))
    answer = turns[-1].parsed
    name = f"{path.stem}-{number}"
    return transcript.episode(
        recorded,
        episode_id=name,
        task_id=name,
        group_id=name,
        abilities=split_abilities(str(row.get("ability") or "+".join(parsed(row.get("abilities")) or ()))),
        source=str(row.get("source") or path.stem),
        seed=0,
        reward=1.0,
        reward_parts={"accuracy": 1.0, "format": float(all(protocol.is_well_formed(opening + turn.action) for turn in turns))},
        answer=answer.text if isinstance(answer, Answer) else None,
        stop_reason=StopReason.ANSWERED,
    )


def _turn(turn: DemonstrationTurn, observation: str, images: list[str]) -> Turn:
    names = [call.name for call in turn.parsed.calls] if isinstance(turn.parsed, Calls) else []
    calls = [ToolCallRecord(_METRIC_NAMES.get(name, name), str(ToolStatus.OK), 0.0) for name in names]
    return Turn(action=turn.action, observation=observation, images=images, tool_calls=calls)
