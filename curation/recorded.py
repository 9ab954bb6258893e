"""Recorded demonstrations from a file, like DeepEyesV2's for the cold start, as episodes in a policy's own tokens.

A row is a conversation (ShareGPT's `conversations` or OpenAI's `messages`) in DeepEyesV2's protocol. Its images are in
`images`, at their `<image>` placeholders, or are parts of the messages. The assistant's turns are learned; tool outputs are treated
as in any episode: escaped, masked, cut to the episode's budgets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from envs.datasets.formats import conversation, picture_parts, text_of
from envs.datasets.pictures import load, picture
from envs.datasets.rows import open_rows
from envs.datasets.types import Picture, report_malformed
from envs.errors import RowError, TokenBudgetExceeded, UsageError
from envs.protocols import Action, Answer, Call, Calls, DeepEyes, Malformed, escape
from envs.types import ToolStatus
from rollout.config import EpisodeConfig
from rollout.episode.actors import OPENING, closed
from rollout.tokens.chat_format import ChatFormat, ChatMessage
from rollout.tokens.images import ImageEncoder
from rollout.tokens.transcript import Transcript
from rollout.types import Episode, Generation, StopReason, ToolCallRecord, Turn, split_abilities

_RESPONSE = ("<tool_response>", "</tool_response>")
_PROTOCOL = DeepEyes()
_METRIC_NAMES = {"search": "text_search"}  # a model calls the text search by another name


@dataclass(frozen=True, slots=True)
class _RecordedTurn:
    """One turn: the text and images from the user or a tool, then the assistant's action."""

    text: str
    pictures: tuple[Picture, ...]
    action: str
    parsed: Action


def read_demonstrations(
    path: str | Path, chat: ChatFormat, config: EpisodeConfig, *, count: int, seed: int, malformed: str = "error"
) -> list[Episode]:
    """`count` of the file's demonstrations, drawn by `seed` without replacement. Their answers are taken to be right.

    All rows are checked first. Raises DatasetError as `envs.datasets.Dataset` does, and UsageError if the file has
    fewer demonstrations or one is longer than `config.max_tokens`.
    """
    path = Path(path)
    if not path.exists():
        raise UsageError(f"cold_start.demonstrations_file={path}: there is no such file")
    rows, good, bad = open_rows(path, None), [], []
    for number, row in rows:
        try:
            if isinstance(row, RowError):
                raise row
            _turns(row, path.parent)
            good.append(number)
        except RowError as error:
            bad.append((number, str(error)))
    report_malformed(path, bad, malformed)
    if len(good) < count:
        raise UsageError(f"{path} has {len(good)} demonstrations: write cold_start.demonstrations={len(good)} or fewer")
    chosen = np.random.default_rng(seed).permutation(good)[:count]
    return [_episode(rows[number], path, number, chat, config) for number in chosen.tolist()]


def _turns(row: Mapping[str, Any], folder: Path) -> tuple[str | None, list[_RecordedTurn]]:
    """The system prompt and the turns. Raises RowError if the row is not a demonstration."""
    messages = conversation(row)
    system = text_of(messages.pop(0)["content"]) if messages and messages[0]["role"] == "system" else None
    roles = [message["role"] for message in messages]
    if not roles or len(roles) % 2 or set(roles[1::2]) != {"assistant"} or "assistant" in roles[::2]:
        raise RowError("the roles do not alternate; write user, assistant, …, and the answer last")
    images = list(row.get("images") or ())
    turns = []
    for prompt, reply in zip(messages[::2], messages[1::2], strict=True):
        parts = picture_parts(prompt["content"])
        if not parts:
            placeholders = prompt["content"].count("<image>") if isinstance(prompt["content"], str) else 0
            if placeholders > len(images):
                raise RowError("there are more <image> placeholders than images")
            parts, images = images[:placeholders], images[placeholders:]
        # Text after an action was written past the end of the turn and is not learned.
        action = _PROTOCOL.first_turn(text_of(reply["content"]))
        pictures = tuple(picture(part, folder) for part in parts)
        turns.append(_RecordedTurn(text_of(prompt["content"]), pictures, action, _PROTOCOL.parse(action)))
    if images:
        raise RowError(f"{len(images)} images have no <image> placeholder")
    for number, turn in enumerate(turns, 1):
        if isinstance(turn.parsed, Malformed):
            raise RowError(f"turn {number} of the assistant is not an action ({turn.parsed.reason})")
        if isinstance(turn.parsed, Answer) != (number == len(turns)):
            raise RowError("the answer must be the last turn, and only that")
    return system, turns


def _episode(row: Mapping[str, Any], path: Path, number: int, chat: ChatFormat, config: EpisodeConfig) -> Episode:
    system, turns = _turns(row, path.parent)
    opening = OPENING if chat.opens_thoughts else ""
    turns = [replace(turn, action=closed(turn.action, opening)) for turn in turns]
    transcript = Transcript(
        chat,
        max_tokens=config.max_tokens,
        observation_tokens=config.max_observation_tokens,
        system_prompt=config.system_prompt or system,
        history=config.history,
    )
    images = ImageEncoder()
    recorded: list[Turn] = []
    try:
        for index, turn in enumerate(turns):
            text = turn.text if index == 0 else _tool_text(turn.text, turns[index - 1].parsed)
            encoded = tuple(images.encode(load(source)) for source in turn.pictures)
            (message,) = transcript.append_observation([ChatMessage("user", text, encoded)])
            if index:
                recorded.append(_turn(turns[index - 1], message.text, [image.sha256 for image in message.images]))
            token_ids = chat.encode_action(turn.action, _PROTOCOL.stop)
            if len(token_ids) > transcript.room:
                raise TokenBudgetExceeded(f"an action of {len(token_ids)} tokens, {transcript.room} are left")
            transcript.append_generation(Generation(token_ids, [0.0] * len(token_ids), "stop", 0))
    except TokenBudgetExceeded as error:
        raise UsageError(
            f"{path}, row {number}: longer than rollout.episode.max_tokens={config.max_tokens} ({error}): raise it"
        ) from None
    recorded.append(_turn(turns[-1], "", []))
    answer = turns[-1].parsed
    name = f"{path.stem}-{number}"
    return transcript.episode(
        recorded,
        episode_id=name,
        task_id=name,
        group_id=name,
        abilities=split_abilities(str(row.get("ability") or "")),
        source=str(row.get("source") or path.stem),
        seed=0,
        reward=1.0,
        reward_parts={"accuracy": 1.0, "format": float(all(_PROTOCOL.is_well_formed(opening + turn.action) for turn in turns))},
        answer=answer.text if isinstance(answer, Answer) else None,
        stop_reason=StopReason.ANSWERED,
    )


def _tool_text(text: str, action: Action) -> str:
    """A recorded tool output, written as the environment writes it."""
    inner = escape(text.removeprefix(_RESPONSE[0]).removesuffix(_RESPONSE[1]).strip())
    calls = action.calls if isinstance(action, Calls) else (Call("code"),)
    (message,) = _PROTOCOL.results(calls, [(inner, ())])
    return message.text


def _turn(turn: _RecordedTurn, observation: str, images: list[str]) -> Turn:
    names = [call.name for call in turn.parsed.calls] if isinstance(turn.parsed, Calls) else []
    calls = [ToolCallRecord(_METRIC_NAMES.get(name, name), str(ToolStatus.OK), 0.0) for name in names]
    return Turn(action=turn.action, observation=observation, images=images, tool_calls=calls)
