"""Who acts in an episode: the served policy, or a script of the environment."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from operator import index
from typing import Any, Protocol

import gymnasium

from envs.errors import InfrastructureError, UsageError
from envs.protocols import Protocol as EnvProtocol
from envs.protocols.tags import THOUGHTS_BEGIN, scan
from envs.types import Observation, Script
from rollout.config import EpisodeConfig
from rollout.policy import HasSessions, Policy
from rollout.tokens.chat_format import ChatFormat, ChatMessage
from rollout.tokens.transcript import Transcript
from rollout.types import MOST_LOGPROB, EpisodeSpec, Generation

_ACTIONS = frozenset({"answer", "code", "tool_call"})
OPENING, CLOSING = "<think>\n", "\n</think>\n\n"


class Actor(Protocol):
    """Whoever acts: given the transcript and what the environment showed, one turn in one or more pieces, or None to give up.

    `opening` is what the chat template has already written of each turn, as far as the environment's protocol needs to know.
    """

    opening: str

    async def act(
        self, transcript: Transcript, observation: Observation, messages: Sequence[ChatMessage]
    ) -> list[Generation] | None: ...


class PolicyActor:
    """The served policy. Its generation ends with an action of the `protocol`, if the environment has one."""

    def __init__(
        self, policy: Policy, chat: ChatFormat, spec: EpisodeSpec, config: EpisodeConfig, protocol: EnvProtocol | None
    ) -> None:
        self._policy = policy.session(spec.episode_id) if isinstance(policy, HasSessions) else policy
        self._chat, self._spec, self._config, self._protocol = chat, spec, config, protocol
        self._stop = () if protocol is None else protocol.stop
        self.opening = OPENING if protocol is not None and chat.opens_thoughts else ""
        self._seeds = random.Random(spec.sampling_seed)

    async def act(
        self, transcript: Transcript, observation: Observation, messages: Sequence[ChatMessage]
    ) -> list[Generation] | None:
        pieces: list[Generation] = []
        sampled: list[int] = []
        while True:
            room = min(self._config.max_action_tokens, transcript.room) - len(sampled)
            generation = await self._policy.generate(
                [*transcript.token_ids, *sampled],
                transcript.images,
                max_tokens=room,
                temperature=self._spec.temperature,
                seed=self._seeds.getrandbits(31),
                stop=self._stop,
            )
            piece = _plain(generation, room)
            if not all(map(math.isfinite, piece.logprobs)):
                raise InfrastructureError(
                    "a token was sampled with a log-probability that is no number: weights of the policy have become infinite or "
                    "NaN, or the engine cannot compute this model"
                )
            pieces.append(piece)
            sampled += piece.token_ids
            if not self._goes_on(piece, sampled, transcript):
                return pieces

    def _goes_on(self, piece: Generation, sampled: list[int], transcript: Transcript) -> bool:
        """Whether the text that ended generation was only a mention, in thoughts or inside an action."""
        if self._protocol is None or piece.finish_reason != "stop" or not piece.token_ids:
            return False
        if piece.token_ids[-1] == self._chat.end_of_turn or len(sampled) >= min(self._config.max_action_tokens, transcript.room):
            return False
        return not self._protocol.ends_turn(self.opening + self._chat.decode(sampled))


def _plain(generation: object, room: int) -> Generation:
    """The same in plain numbers, whatever arrays they are in. Raises UsageError if it is no Generation of at most `room` tokens."""
    if not isinstance(generation, Generation):
        raise UsageError(f"the engine's generate() returned a {type(generation).__name__}: return a rollout.types.Generation")
    try:
        plain = replace(
            generation,
            token_ids=[index(token) for token in generation.token_ids],
            logprobs=[float(logprob) for logprob in generation.logprobs],
            version=index(generation.version),
            versions=None if generation.versions is None else [index(version) for version in generation.versions],
        )
    except (TypeError, ValueError) as error:
        raise UsageError(f"the engine's generate() returned a Generation with what is no number: {error}") from error
    wrong = [f"{len(plain.token_ids)} tokens: max_tokens was {room}"] * (len(plain.token_ids) > room)
    wrong += [f"the token {token}: ids are 0 or more" for token in plain.token_ids if token < 0]
    wrong += [f"the version {version}: versions are 0 or more" for version in plain.token_versions if version < 0]
    wrong += [f"the log-probability {value:g}: they are 0 or less" for value in plain.logprobs if value > MOST_LOGPROB]
    if wrong:
        raise UsageError(f"the engine's generate() returned {wrong[0]}")
    return plain


class ScriptActor:
    """A script of the environment, in the student's tokens. They count as sampled by version 0 with probability 1."""

    def __init__(self, script: Script, chat: ChatFormat, protocol: EnvProtocol | None) -> None:
        self._script, self._chat = script, chat
        self.opening = OPENING if protocol is not None and chat.opens_thoughts else ""
        self._stop = () if protocol is None else protocol.stop
        self._started = False

    async def act(
        self, transcript: Transcript, observation: Observation, messages: Sequence[ChatMessage]
    ) -> list[Generation] | None:
        try:
            text = self._script.send(observation) if self._started else next(self._script)
        except StopIteration:
            return None
        self._started = True
        token_ids = self._chat.encode_action(closed(str(text), self.opening), self._stop)
        if len(token_ids) > transcript.room:
            return None
        return [certain(token_ids)]


def closed(text: str, opening: str) -> str:
    """A turn of somebody else's, as a student writes it whose chat template has begun with thoughts: it ends them first."""
    if not opening:
        return text
    if begun := THOUGHTS_BEGIN.match(text.lstrip()):
        return text.lstrip()[begun.end() :].lstrip("\n")
    # A `</think>` in a string of code or of a call ends no thoughts.
    return text if scan(text, _ACTIONS).visible_start else CLOSING + text


def opened(text: str, opening: str) -> str:
    """The inverse of `closed`: a turn with its thoughts whole, or without any if they are empty."""
    return text.removeprefix(CLOSING) if opening and text.startswith(CLOSING) else opening + text


def certain(token_ids: list[int], finish_reason: str = "stop", reasoning: str = "") -> Generation:
    """Tokens that no policy sampled. They count as sampled by version 0 with probability 1: how likely they were is unknown."""
    return Generation(token_ids, [0.0] * len(token_ids), finish_reason, 0, reasoning)


def sampling(space: Any) -> Callable[[random.Random], Script] | None:
    """A script of random texts from an action space of Gymnasium's; None if it is not a space of texts."""
    if not isinstance(space, gymnasium.Space) or not isinstance(space.sample(), str):
        return None

    def script(rng: random.Random) -> Script:
        space.seed(rng.getrandbits(31))
        while True:
            yield space.sample()

    return script
