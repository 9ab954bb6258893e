"""An episode as a conversation: what every format is written from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from envs.protocols import Calls, Protocol
from envs.protocols.text import encodable
from rollout.episode.actors import OPENING
from rollout.lint import sampled_runs
from rollout.tokens.chat_format import ChatFormat
from rollout.tokens.prompts import PromptMessage, PromptReader
from rollout.types import Episode, Trajectory
from rollout.types import Turn as Recorded


@dataclass(frozen=True, slots=True)
class Message:
    """A message that the policy was shown: its role, its text, and its images, sha256 names, which stand before the text."""

    role: str
    text: str
    images: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ToolUse:
    """A call of a turn: the name and the arguments that the policy wrote, and how it ended; `status` is None if it is not on record
    (the call was never carried out)."""

    id: str
    name: str
    arguments: dict[str, Any]
    status: str | None
    latency_s: float


@dataclass(frozen=True, slots=True)
class Sampled:
    """The N tokens of a turn, with log-probability and policy version each, and the tokens of its whole prompt."""

    token_ids: list[int]
    logprobs: list[float]
    versions: list[int]
    prompt_ids: list[int]


@dataclass(frozen=True, slots=True)
class Turn:
    """One action and what followed it.

    `text` is the action as it was sampled. If writing its calls again gives the very same text, they are `structured`, and `said`
    is what stands before them; else `said` is the whole text. `results` are the messages that followed, one for each call if they
    can be told apart. `sampled` is None if the record's tokens and turns do not belong together.
    """

    text: str
    said: str
    structured: bool
    calls: tuple[ToolUse, ...]
    results: tuple[Message, ...]
    reasoning: str
    generate_s: float
    sampled: Sampled | None


@dataclass(frozen=True, slots=True)
class Conversation:
    """An episode of the file `name`: the prompt's messages and the turns. `roles_known` is False if the prompt is one message
    because its roles could not be told apart."""

    name: str
    episode: Episode
    prompt: tuple[Message, ...]
    turns: tuple[Turn, ...]
    roles_known: bool

    @property
    def record(self) -> Trajectory:
        """The episode in one record."""
        return self.episode.trajectory

    @property
    def system(self) -> str | None:
        """The system prompt, if there is one."""
        return next((message.text for message in self.prompt if message.role == "system"), None)

    @property
    def shown_images(self) -> list[str]:
        """The images of the question, then those of each turn, in order."""
        messages = [*self.prompt, *(message for turn in self.turns for message in turn.results)]
        return [image for message in messages for image in message.images]


class Conversations:
    """Makes conversations of stored episodes, in a policy's tokens and a protocol's words."""

    def __init__(self, chat: ChatFormat, protocol: Protocol) -> None:
        self._chat, self._protocol = chat, protocol
        self._prompts = PromptReader(chat)
        self._opening = OPENING if chat.opens_thoughts else ""
        self._tools_speak = protocol.tools_in_template or protocol.native

    def of(self, name: str, episode: Episode) -> Conversation:
        """The conversation of an episode. Raises ValueError, TypeError, OverflowError or IndexError for tokens that the policy does
        not have."""
        first = episode.chains[0]
        asked = first.images[: len(first.images) - sum(len(turn.images) for turn in _shown(episode, 0))]
        token_ids = first.token_ids[: first.prompt_length]
        messages = self._prompts.messages(token_ids)
        known = messages is not None or not token_ids
        prompt = _with_images(messages or ([PromptMessage("user", self._prompts.plain(token_ids))] if token_ids else []), asked)
        return Conversation(name, episode, prompt, tuple(self._turns(episode)), known)

    def _turns(self, episode: Episode) -> Iterator[Turn]:
        number, count = 0, sum(len(chain.turns) for chain in episode.chains)
        for chain in episode.chains:
            runs = sampled_runs(chain)
            matched = len(runs) == len(chain.turns)
            for place, turn in enumerate(chain.turns):
                number += 1
                sampled, between = None, []
                if matched:
                    start, end = runs[place]
                    logprobs, versions = chain.logprobs[start:end], chain.versions[start:end]
                    sampled = Sampled(chain.token_ids[start:end], logprobs, versions, chain.token_ids[:start])
                    between = chain.token_ids[end : runs[place + 1][0]] if place + 1 < len(runs) else []
                yield self._turn(number, turn, sampled, between, number < count)

    def _turn(self, number: int, turn: Recorded, sampled: Sampled | None, between: Sequence[int], followed: bool) -> Turn:
        action = encodable(turn.action)
        parsed = self._protocol.parse(self._opening + action)
        calls = parsed.calls if isinstance(parsed, Calls) else ()
        said, structured = action, False
        if calls:
            try:
                written = self._protocol.write(Calls(calls))
            except ValueError:
                written = ""
            if structured := bool(written) and action.endswith(written):
                said = action[: len(action) - len(written)]
        used = tuple(
            ToolUse(
                f"call_{number}_{place}",
                call.name if call else record.tool if record else "",
                call.arguments if call else {},
                record.status if record else None,
                record.latency_s if record else 0.0,
            )
            for place, (call, record) in enumerate(zip_longest(calls, turn.tool_calls), 1)
        )
        return Turn(
            action,
            said,
            structured,
            used,
            self._shown(turn, len(used), between, followed),
            encodable(turn.reasoning),
            turn.generate_s,
            sampled,
        )

    def _shown(self, turn: Recorded, calls: int, between: Sequence[int], followed: bool) -> tuple[Message, ...]:
        """The messages that followed a turn; one, be it empty, if another turn followed."""
        text = encodable(turn.observation)
        if not text and not turn.images and not followed:
            return ()
        role = "tool" if self._tools_speak and calls else "user"
        if role == "tool" and calls > 1 and not turn.images:
            parts = self._prompts.results(between, calls)
            if parts is not None and "\n".join(parts) == text:
                return tuple(Message(role, part) for part in parts)
        return (Message(role, text, tuple(turn.images)),)


def _with_images(messages: Sequence[PromptMessage], images: Sequence[str]) -> tuple[Message, ...]:
    """The messages with the images of each. If an image is more than one run of placeholders, and several messages have some, all
    belong to the last of these."""
    holders = [place for place, message in enumerate(messages) if message.image_runs and message.role != "system"]
    if not holders:
        holders = [place for place, message in enumerate(messages) if message.role == "user"][-1:]
    counts = {place: messages[place].image_runs for place in holders}
    if sum(counts.values()) != len(images):
        counts = {place: len(images) for place in holders[-1:]}
    made, begin = [], 0
    for place, message in enumerate(messages):
        end = begin + counts.get(place, 0)
        made.append(Message(message.role, message.text, tuple(images[begin:end])))
        begin = end
    return tuple(made)


def _shown(episode: Episode, place: int) -> Sequence[Recorded]:
    """The turns whose images are in a chain: what an earlier chain's last turn was shown begins the next one."""
    turns = episode.chains[place].turns
    return turns if place == len(episode.chains) - 1 else turns[:-1]
