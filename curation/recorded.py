"""Recorded demonstrations from a file, like DeepEyesV2's for the cold start, as episodes in a policy's own tokens.

A row that `toolwise synthesize` wrote is taken as it stands (`curation.rows`). Any other is a conversation (ShareGPT's
`conversations`, OpenAI's `messages`, or Alpaca's `instruction` and `output`) in DeepEyesV2's protocol; calls in OpenAI's
`tool_calls` are written in it. Its images are in `images`, at their `<image>` placeholders, or are parts of the messages. The
assistant's turns are learned; tool outputs are treated as in any episode: escaped, masked, cut to the episode's budgets.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from curation.rows import Demonstration, DemonstrationTurn, Shown, demonstration, is_row
from envs.datasets.columns import NAMES, cleaned, require_understood, text, unread
from envs.datasets.conversations import PLACEHOLDER, Message, as_question, conversation, settled
from envs.datasets.pictures import row_pictures
from envs.datasets.rows import open_rows
from envs.datasets.types import report_malformed
from envs.errors import ItemError, RowError, TokenBudgetExceeded, UsageError
from envs.pictures import Source, decode, named, require_whole
from envs.protocols import Action, Answer, Call, Calls, DeepEyes, Malformed, escape
from envs.types import ToolStatus
from rollout.config import PROTOCOL_PROMPT, EpisodeConfig
from rollout.episode.actors import OPENING, closed
from rollout.episode.prompts import explained
from rollout.tokens.chat_format import ChatFormat, ChatMessage
from rollout.tokens.images import ImageEncoder, limited
from rollout.tokens.transcript import Transcript
from rollout.types import Episode, Generation, StopReason, ToolCallRecord, Turn, split_abilities

log = logging.getLogger(__name__)

_RESPONSE = ("<tool_response>", "</tool_response>")
_PROTOCOL = DeepEyes()
_METRIC_NAMES = {"search": "text_search"}  # a model calls the text search by another name


def read_demonstrations(
    path: str | Path, chat: ChatFormat, config: EpisodeConfig, *, count: int | None, seed: int, malformed: str = "error"
) -> list[Episode]:
    """`count` of the file's demonstrations, drawn by `seed` without replacement, None for all. Their answers are taken to be right.

    All rows are checked first. Those of them that are longer than `config.max_tokens` are counted, and are malformed. Raises
    DatasetError as `envs.datasets.Dataset` does, and UsageError if the file has fewer demonstrations, or the system prompt is
    unknown.
    """
    path = Path(path)
    if not path.exists():
        raise UsageError(f"there is no file of demonstrations {path}: write one of conversations, or a run with trajectories/")
    rows, good, bad = open_rows(path, None), [], []
    others: set[str] = set()
    for number, row in rows:
        try:
            if isinstance(row, RowError):
                raise row
            for picture in [one for turn in _read(row, path.parent).turns for shown in turn.shown for one in shown.pictures]:
                require_whole(picture)
            good.append(number)
            others |= set() if is_row(row) else unread(cleaned(row)) | ({"tools"} & row.keys())
        except RowError as error:
            bad.append((number, str(error)))
    if others:
        log.warning("%s: columns that are not read: %s", path, ", ".join(sorted(others)))
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
            episodes.append(_episode(rows[number], path, number, chat, config))
        except TokenBudgetExceeded as error:
            long.append((number, f"longer than rollout.episode.max_tokens={config.max_tokens} ({error}): raise it"))
    report_malformed(path, sorted(long), malformed)
    if not episodes or (count is not None and len(episodes) < count):
        raise UsageError(
            f"{path} has {len(episodes)} demonstrations of at most rollout.episode.max_tokens={config.max_tokens}: raise it, or "
            f"write cold_start.demonstrations={len(episodes)}"
        )
    return episodes


def _read(row: Mapping[str, Any], folder: Path) -> Demonstration:
    """The demonstration of a row. Raises RowError if it is none."""
    made = demonstration(row, folder) if is_row(row) else _conversation(row, folder)
    for number, turn in enumerate(made.turns, 1):
        if isinstance(turn.parsed, Malformed):
            raise RowError(f"turn {number} of the assistant is not an action ({turn.parsed.reason})")
        if isinstance(turn.parsed, Answer) != (number == len(made.turns)):
            raise RowError("the answer must be the last turn, and only that")
    return made


def _conversation(row: Mapping[str, Any], folder: Path) -> Demonstration:
    """The demonstration that a conversation is; what tools returned is written as the environment writes it."""
    row = cleaned(row)
    messages = conversation(row) or _instruction(row)
    system = "\n\n".join(message.text for message in messages if message.role == "system") or None
    spoken = [message for message in messages if message.role != "system"]
    # The results of several calls, and a user's picture and text, may be messages of their own.
    runs = [list(run) for _, run in groupby(spoken, key=lambda message: message.role == "assistant")]
    if len(runs) % 2 or not runs or runs[0][0].role == "assistant" or any(len(run) > 1 for run in runs[1::2]):
        raise RowError("the roles do not alternate; write user, assistant, …, and the answer last")
    images = list(row_pictures(row, folder))
    require_understood(row, bool(images))
    turns: list[DemonstrationTurn] = []
    for prompts, (reply,) in zip(runs[::2], runs[1::2], strict=True):
        pictures: list[Source] = []
        prompts = prompts if turns else list(map(as_question, prompts))
        for prompt in prompts:
            own = [named(part, folder) for part in prompt.pictures]
            wanted = _placeholders(prompt) - len(own)
            if wanted > len(images):
                raise RowError("there are more <image> placeholders than images")
            pictures += [*own, *images[: max(0, wanted)]]
            images = images[max(0, wanted) :]
        shown = "\n".join(prompt.text for prompt in prompts)
        shown = _tool_text(PLACEHOLDER.sub("", shown).strip(), turns[-1].parsed) if turns else settled(shown, len(pictures))
        # Text after an action was written past the end of the turn and is not learned.
        action = _PROTOCOL.first_turn(_thought(reply.text.strip()))
        turns.append(DemonstrationTurn((Shown("user", shown, tuple(pictures)),), action, _PROTOCOL.parse(action)))
    if images:
        raise RowError(f"{len(images)} images have no <image> placeholder")
    return Demonstration(_PROTOCOL, turns, system)


def _instruction(row: Mapping[str, Any]) -> list[Message]:
    """Alpaca's form: one question and one turn."""
    if "instruction" not in row or "output" not in row:
        raise RowError("there is no conversation; write messages, or conversations")
    system = [Message("system", text(row[name])) for name in NAMES["system"] if name in row]
    asked = "\n".join(text(row[name]) for name in ("instruction", "input") if name in row)
    return [*system, Message("user", asked), Message("assistant", text(row["output"]))]


def _placeholders(message: Message) -> int:
    """The number of pictures that a message's text has placeholders for."""
    numbers = {match["number"] or match["other"] for match in PLACEHOLDER.finditer(message.text)} - {None}
    return message.placeholders or len(numbers)


def _thought(turn: str) -> str:
    """A turn with both tags around its thoughts: if a chat template had opened them, the recorded text has only the second."""
    begun, closed_tag, _ = turn.partition("</think>")
    return f"<think>\n{turn}" if closed_tag and "<think>" not in begun else turn


def _system_prompt(made: Demonstration, config: EpisodeConfig, tools_shown: bool) -> str | None:
    """The configured prompt, and the row's own. Raises UsageError if the protocol is to be explained and the row does not do it."""
    own = made.system
    if made.guides is not None:
        return explained(made.protocol, made.instructions, config, tools_shown)
    if config.system_prompt == PROTOCOL_PROMPT:
        if own is None:
            raise UsageError(
                "rollout.episode.system_prompt=protocol explains the tools of an environment, and recorded demonstrations have "
                "none: give the rows a system message, or write the prompt's text"
            )
        return own
    parts = [part for part in (config.system_prompt, own) if part]
    return "\n\n".join(dict.fromkeys(parts)) or None


def _episode(row: Mapping[str, Any], path: Path, number: int, chat: ChatFormat, config: EpisodeConfig) -> Episode:
    """The episode of a row. Raises TokenBudgetExceeded if it is too long."""
    made = _read(row, path.parent)
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
        abilities=split_abilities(str(row.get("ability") or "")),
        source=str(row.get("source") or path.stem),
        seed=0,
        reward=1.0,
        reward_parts={"accuracy": 1.0, "format": float(all(protocol.is_well_formed(opening + turn.action) for turn in turns))},
        answer=answer.text if isinstance(answer, Answer) else None,
        stop_reason=StopReason.ANSWERED,
    )


def _tool_text(text: str, action: Action) -> str:
    """A recorded tool output, written as the environment writes it."""
    inner = escape(text.removeprefix(_RESPONSE[0]).removesuffix(_RESPONSE[1]).strip())
    calls = action.calls if isinstance(action, Calls) else (Call("code"),)
    (message,) = _PROTOCOL.results(calls, [(inner, ())])
    return message.text


def _turn(turn: DemonstrationTurn, observation: str, images: list[str]) -> Turn:
    names = [call.name for call in turn.parsed.calls] if isinstance(turn.parsed, Calls) else []
    calls = [ToolCallRecord(_METRIC_NAMES.get(name, name), str(ToolStatus.OK), 0.0) for name in names]
    return Turn(action=turn.action, observation=observation, images=images, tool_calls=calls)
