"""Who acts in an episode: the served policy, a model behind an endpoint, or a script of the environment."""

from __future__ import annotations

import asyncio
import base64
import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import gymnasium

from envs.errors import InfrastructureError
from envs.types import Observation, Script
from rollout.config import EpisodeConfig
from rollout.policy import ChatPolicy, Policy
from rollout.tokens.chat_format import ChatFormat
from rollout.tokens.images import EncodedImage
from rollout.tokens.transcript import Transcript
from rollout.types import EpisodeSpec, Generation

if TYPE_CHECKING:
    from envs.chat_endpoint import Message

_ENDPOINT_SHARE = 0.9  # of a turn: past its end the turn would count against the model


class Actor(Protocol):
    """Whoever acts: given the transcript and the last observation, one turn, or None to give up."""

    async def act(self, transcript: Transcript, observation: Observation) -> Generation | None: ...


class PolicyActor:
    """The served policy."""

    def __init__(self, policy: Policy, spec: EpisodeSpec, config: EpisodeConfig) -> None:
        self._policy, self._spec, self._config = policy, spec, config
        self._seeds = random.Random(spec.sampling_seed)

    async def act(self, transcript: Transcript, observation: Observation) -> Generation | None:
        return await self._policy.generate(
            transcript.token_ids,
            transcript.images,
            max_tokens=min(self._config.max_action_tokens, transcript.room),
            temperature=self._spec.temperature,
            seed=self._seeds.getrandbits(31),
        )


class EndpointActor:
    """A model behind an endpoint, in the student's tokens. They count as sampled by version 0 with probability 1: how likely they
    were is not known.
    """

    def __init__(self, policy: ChatPolicy, chat: ChatFormat, spec: EpisodeSpec, config: EpisodeConfig, system: str | None) -> None:
        self._policy, self._chat, self._spec, self._config = policy, chat, spec, config
        self._messages: list[Message] = [] if system is None else [{"role": "system", "content": system}]
        self._seeds = random.Random(spec.sampling_seed)

    async def act(self, transcript: Transcript, observation: Observation) -> Generation | None:
        images = [self._chat.images.encode(image) for image in observation["images"]]
        self._messages.append(_message(observation["text"], images))
        deadline_s = _ENDPOINT_SHARE * self._config.turn_s
        try:
            async with asyncio.timeout(deadline_s):
                reply = await self._policy.complete(
                    self._messages,
                    max_tokens=min(self._config.max_action_tokens, transcript.room),
                    temperature=self._spec.temperature,
                    seed=self._seeds.getrandbits(31),
                )
        except TimeoutError:
            raise InfrastructureError(f"the endpoint gave no answer within {deadline_s:g} s") from None
        self._messages.append({"role": "assistant", "content": reply.text})
        token_ids = self._chat.encode_action(reply.text)
        if reply.finish_reason == "length" or len(token_ids) > transcript.room:  # its end of turn was not written
            token_ids = token_ids[: min(len(token_ids) - 1, transcript.room)]
            return Generation(token_ids, [0.0] * len(token_ids), "length", 0)
        return Generation(token_ids, [0.0] * len(token_ids), "stop", 0)


class ScriptActor:
    """A script of the environment, in the student's tokens. They count as sampled by version 0 with probability 1."""

    def __init__(self, script: Script, chat: ChatFormat) -> None:
        self._script, self._chat = script, chat
        self._started = False

    async def act(self, transcript: Transcript, observation: Observation) -> Generation | None:
        try:
            text = self._script.send(observation) if self._started else next(self._script)
        except StopIteration:
            return None
        self._started = True
        token_ids = self._chat.encode_action(text)
        if len(token_ids) > transcript.room:
            return None
        return Generation(token_ids, [0.0] * len(token_ids), "stop", 0)


def sampling(space: Any) -> Callable[[random.Random], Script] | None:
    """A script of random texts from an action space of Gymnasium's; None where it is no space of texts."""
    if not isinstance(space, gymnasium.Space) or not isinstance(space.sample(), str):
        return None

    def script(rng: random.Random) -> Script:
        space.seed(rng.getrandbits(31))
        while True:
            yield space.sample()

    return script


def _message(text: str, images: Sequence[EncodedImage]) -> Message:
    """What the environment shows, as a user's message: the images first, as in the built-in chat templates."""
    parts: list[Message] = [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{base64.b64encode(image.png).decode()}"}}
        for image in images
    ]
    return {"role": "user", "content": [*parts, {"type": "text", "text": text}]}
