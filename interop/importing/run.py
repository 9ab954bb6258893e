"""The import of a log: each row is an episode of a run, in a policy's own tokens.

Nobody knows how likely a log's tokens were. As in any episode of a script they count as sampled by version 0 with probability 1
(log-probability 0), which keeps the contract of a trajectory; `config.yaml` says `logprobs: unknown`. A cold start learns from the
tokens alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from curation.rows import Shown
from envs.datasets.columns import parsed
from envs.datasets.rows import Rows, open_rows
from envs.errors import RowError, TokenBudgetExceeded, UsageError
from envs.pictures import decode
from envs.protocols import Answer, Calls, Protocol
from envs.protocols.opening import open_protocol
from envs.protocols.text import encodable
from envs.runtime.atomic import new_directory, write_file
from envs.runtime.progress import Advance
from envs.types import ToolStatus
from interop.exporting.runs import Notes
from interop.importing.logs import Logged, LoggedTurn, format_of, is_tagged, read
from interop.settings import ImportConfig, LogFormat
from rollout.episode.actors import OPENING, certain, closed
from rollout.store import Store
from rollout.tokens.chat_format import ChatFormat, ChatMessage
from rollout.tokens.images import ImageEncoder, limited
from rollout.tokens.transcript import TRUNCATED, Transcript
from rollout.types import Episode, StopReason, ToolCallRecord, Turn
from starter.policies import find_policy

NAME = "imported"
_CHARACTERS = 32  # of a token: a text with more is cut before its tokens are counted
_SUFFIXES = (".jsonl", ".json", ".parquet", ".tsv")
_TOOLS = {"search": "text_search"}  # a model calls the text search by another name


@dataclass(frozen=True, slots=True)
class Log:
    """A file that is to be imported: its rows, their number, the format and why, and the protocol that calls are written in."""

    path: Path
    entries: Rows
    rows: int
    format: LogFormat
    reason: str
    protocol: Protocol
    policy: str


@dataclass(frozen=True, slots=True)
class Imported:
    """The number of episodes, and what was left out or changed, a line each."""

    episodes: int
    notes: list[str]


def open_log(config: ImportConfig) -> Log:
    """The log that the settings name. Raises UsageError if it is not there or of no known form, or there is no such policy."""
    path = Path(config.file)
    if not config.file or not path.exists():
        found = f"there is no file {config.file}" if config.file else "no file is named"
        raise UsageError(f"{found}: write file= a log of conversations, as in file=log.jsonl")
    if path.is_file() and path.suffix not in _SUFFIXES:
        raise UsageError(f"file={config.file}: write a file whose name ends in {', '.join(_SUFFIXES)}")
    policy = find_policy(config.policy)
    entries = open_rows(path, None, as_written=True)  # halves of characters are counted
    known: dict[LogFormat, int] = {}
    rows = tagged = 0
    for number, row in entries:
        rows += 1
        if config.format is LogFormat.guess and not isinstance(row, RowError):
            kind = format_of(row)
            if kind is not None:
                known.setdefault(kind, number)
            tagged = tagged or (number if is_tagged(row) else 0)
    if not rows:
        raise UsageError(f"file={config.file}: there is no row in it")
    kind, reason = config.format, ""
    if kind is LogFormat.guess:
        if len(known) > 1:
            where = " and ".join(f"row {number} is {name}" for name, number in known.items())
            raise UsageError(f"{config.file}: {where}: write format=openai or format=deepeyes")
        kind = next(iter(known), LogFormat.deepeyes if tagged else LogFormat.openai)
        seen = known.get(kind, tagged)
        shown = {LogFormat.openai: "calls in tool_calls or messages of tools", LogFormat.deepeyes: "actions between tags"}[kind]
        reason = f" (row {seen} has {shown}; format= says otherwise)" if seen else " (no row has a call or a tag)"
    protocol = open_protocol(config.protocol or ("hermes" if kind is LogFormat.openai else "deepeyes"))
    return Log(path, entries, rows, kind, reason, protocol, policy)


def import_logs(log: Log, config: ImportConfig, advance: Advance) -> Imported:
    """Write the run. Raises UsageError if `out` is not empty, or the policy's chat format cannot be used."""
    notes, episodes = Notes(), 0
    with new_directory(Path(config.out)) as directory:
        encoder = _Encoder(log, config, ChatFormat.from_directory(log.policy), notes)
        store = Store(directory)
        store.directory.mkdir()
        (store.directory / f"{NAME}.jsonl").touch()
        for number, row in log.entries:
            try:
                if isinstance(row, RowError):
                    raise row
                if (sound := _sound(row)) != row:
                    notes.add("rows with halves of characters, in whose place U+FFFD stands", f"{log.path.name}:{number}")
                store.append(NAME, encoder.episode(sound, number))
                episodes += 1
            except RowError as error:
                notes.add("rows that cannot be read", f"{log.path.name}:{number}: {error}")
            advance(number, f"{episodes} episodes")
        settings = {
            "out": config.out,
            "policy": log.policy,
            "tasks": str(log.path),
            "options": {"protocol": config.protocol or log.protocol.name},
            "imported": {"file": str(log.path.absolute()), "format": str(log.format), "rows": log.rows, "logprobs": "unknown"},
        }
        write_file(directory / "config.yaml", yaml.safe_dump(settings, sort_keys=False))
    return Imported(episodes, notes.lines())


@dataclass(slots=True)
class _Encoder:
    """Writes rows as episodes in a policy's tokens; `notes` counts what is guessed or changed."""

    log: Log
    config: ImportConfig
    chat: ChatFormat
    notes: Notes
    images: ImageEncoder = field(default_factory=ImageEncoder)
    prompts: dict[str, int] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)

    def episode(self, row: Mapping[str, Any], number: int) -> Episode:
        """The episode of a row. Raises RowError."""
        logged = read(row, self.log.path.parent, self.log.format, self.log.protocol)
        if logged.missing_images:
            self.notes.add("rows that name images which the log does not hold; they are left out", f"{self.log.path.name}:{number}")
        opening = OPENING if self.chat.opens_thoughts else ""
        system = "\n\n".join(one.text for one in logged.asked if one.role == "system") or None
        limit = self.config.max_observation_tokens
        transcript = Transcript(
            self.chat, max_tokens=self.config.max_tokens, observation_tokens=limit, reserve_tokens=limit // 8, system_prompt=system
        )
        try:
            self._show([one for one in logged.asked if one.role != "system"], transcript)
            turns = [self._turn(logged, place, transcript, opening, row) for place in range(len(logged.turns))]
        except TokenBudgetExceeded as error:
            raise RowError(f"longer than max_tokens={self.config.max_tokens} ({error})") from None
        except UsageError as error:
            raise RowError(str(error)) from None
        return transcript.episode(turns, **self._facts(row, number, logged, transcript, opening))

    def _turn(self, logged: Logged, place: int, transcript: Transcript, opening: str, row: Mapping[str, Any]) -> Turn:
        turn = logged.turns[place]
        action = closed(turn.action, opening)
        token_ids = self.chat.encode_action(action, self.log.protocol.stop)
        if len(token_ids) > transcript.room:
            raise TokenBudgetExceeded(f"an action of {len(token_ids)} tokens, {transcript.room} are left")
        transcript.append_generation(certain(token_ids))
        text, images = "\n".join(one.text for one in turn.results), []
        if turn.results and place + 1 < len(logged.turns):
            shown = self._show(turn.results, transcript)
            text = "\n".join(message.text for message in shown)
            images = [image.sha256 for message in shown for image in message.images]
        elif any(one.pictures for one in turn.results):
            self.notes.add("images behind a last turn, which the model never saw and which are left out")
        return Turn(
            action=action,
            observation=text,
            images=images,
            tool_calls=self._calls(turn, opening + action, row, place, len(logged.turns)),
            generate_s=_time(row, place, len(logged.turns)),
            reasoning=turn.reasoning,
        )

    def _calls(self, turn: LoggedTurn, action: str, row: Mapping[str, Any], place: int, count: int) -> list[ToolCallRecord]:
        if (recorded := _recorded(row, place, count)) is not None:
            return recorded
        parsed = self.log.protocol.parse(action)
        names = [call.name for call in parsed.calls] if isinstance(parsed, Calls) else []
        for _ in names:
            self.notes.add("calls whose outcome is not on record, taken to have succeeded")
        return [ToolCallRecord(_TOOLS.get(name, name), str(ToolStatus.OK), 0.0) for name in names]

    def _show(self, given: Sequence[Shown], transcript: Transcript) -> list[ChatMessage]:
        """Add messages with their pictures; returns them as they fit. Raises RowError for a picture that is broken or missing."""
        made, longest = [], _CHARACTERS * self.config.max_observation_tokens
        for one in given:
            pixels = [limited(np.asarray(decode(source)), self.config.max_pixels) for source in one.pictures]
            # Counting the tokens of megabytes takes seconds.
            text = one.text if len(one.text) <= longest else one.text[:longest] + TRUNCATED
            made.append(ChatMessage(one.role, text, tuple(map(self.images.encode, pixels))))
        shown = transcript.append_observation(made)
        for before, after in zip(given, shown, strict=True):
            if before.text != after.text:
                self.notes.add("questions and results that are cut to fit max_tokens and max_observation_tokens")
        return shown

    def _facts(self, row: Mapping[str, Any], number: int, logged: Logged, transcript: Transcript, opening: str) -> dict[str, Any]:
        parsed = self.log.protocol.parse(opening + closed(logged.turns[-1].action, opening))
        said = parsed.text if isinstance(parsed, Answer) else None
        own = f"{self.log.path.stem}-{number}"
        episode_id, task_id, group_id = (str(row.get(name) or own) for name in ("episode_id", "task_id", "group_id"))
        if episode_id in self.names:
            episode_id = f"{episode_id}-{number}"
        self.names.add(episode_id)
        chain = transcript.chains[0]
        prompt = hash(tuple(chain.token_ids[: chain.prompt_length]))
        if self.prompts.setdefault(group_id, prompt) != prompt:
            self.notes.add("rows that are groups of their own, since their question differs from that of their group_id")
            group_id = own
        needed, abilities = _names(row, "needed_tools"), _names(row, "abilities")
        reward, parts = self._reward(row)
        return {
            "episode_id": episode_id,
            "task_id": task_id,
            "group_id": group_id,
            "abilities": tuple(abilities or ()),
            "source": str(row.get("source") or self.log.path.stem),
            "seed": _whole(row.get("seed")),
            "reward": reward,
            "reward_parts": parts,
            "answer": said,
            "stop_reason": _stop_reason(row, isinstance(parsed, Answer)),
            "needed_tools": needed,
        }

    def _reward(self, row: Mapping[str, Any]) -> tuple[float, dict[str, float]]:
        given = row.get("reward_parts")
        parts = {str(name): _number(value) for name, value in (given.items() if isinstance(given, Mapping) else ())}
        known = {name: value for name, value in parts.items() if value is not None}
        for name in ("accuracy", "acc", "correct"):
            if "accuracy" not in known and (value := _number(row.get(name))) is not None:
                known["accuracy"] = value
        reward = next((value for name in ("reward", "score") if (value := _number(row.get(name))) is not None), None)
        if reward is None:
            reward = known.get("accuracy", 0.0)
            if "accuracy" not in known:
                self.notes.add("rows without a reward, which is taken to be 0")
        return reward, known


def _recorded(row: Mapping[str, Any], place: int, count: int) -> list[ToolCallRecord] | None:
    """The calls of a turn as `toolwise export format=messages` writes them beside the messages; None if the row has none."""
    turns = row.get("turns")
    if not isinstance(turns, list) or len(turns) != count:
        return None
    try:
        calls = turns[place]["tool_calls"] or ()
        return [ToolCallRecord(str(call["tool"]), str(call["status"]), float(call["latency_s"])) for call in calls]
    except (KeyError, TypeError, ValueError):
        return None


def _time(row: Mapping[str, Any], place: int, count: int) -> float:
    turns = row.get("turns")
    turn = turns[place] if isinstance(turns, list) and len(turns) == count else None
    return _number(turn.get("generate_s")) or 0.0 if isinstance(turn, Mapping) else 0.0


def _stop_reason(row: Mapping[str, Any], answered: bool) -> StopReason:
    given = str(row.get("stop_reason"))
    if given in (StopReason.TURN_LIMIT, StopReason.TOKEN_LIMIT, StopReason.TIME_LIMIT):
        return StopReason(given)
    return StopReason.ANSWERED if answered else StopReason.TURN_LIMIT


def _names(row: Mapping[str, Any], column: str) -> list[str] | None:
    """The names in a column: a list, or one text. None if there is none. Raises RowError."""
    value = parsed(row.get(column))
    if value is None or isinstance(value, list | tuple):
        return None if value is None else [str(name) for name in value]
    if not isinstance(value, str):
        raise RowError(f'{column} is {str(value)[:80]}: write a list of names, as in ["search"]')
    return [value]


def _number(value: Any) -> float | None:
    try:
        return float(value) if isinstance(value, bool | int | float) and math.isfinite(value) else None
    except OverflowError:
        return None


def _sound(value: Any) -> Any:
    """A row whose texts UTF-8 can hold."""
    if isinstance(value, str):
        return encodable(value)
    if isinstance(value, dict):
        return {_sound(name): _sound(entry) for name, entry in value.items()}
    return [_sound(entry) for entry in value] if isinstance(value, list) else value


def _whole(value: Any) -> int:
    return value if isinstance(value, int) else 0
