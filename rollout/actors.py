"""Who acts in an episode: the served policy, a model behind an endpoint, or a script of the environment."""

from __future__ import annotations

import base64
import random
from collections.abc import Sequence
from typing import Any, Protocol

from envs.types import Observation, Script
from rollout.config import EpisodeConfig
from rollout.images import EncodedImage
from rollout.policy import ChatPolicy, Generation, Policy
from rollout.tokens import ChatFormat
from rollout.transcript import Transcript
from rollout.types import EpisodeSpec


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
        self._messages: list[dict[str, Any]] = [] if system is None else [{"role": "system", "content": system}]
        self._seeds = random.Random(spec.sampling_seed)

    async def act(self, transcript: Transcript, observation: Observation) -> Generation | None:
        images = [self._chat.images.encode(image) for image in observation["images"]]
        self._messages.append(_message(observation["text"], images))
        text = await self._policy.complete(
            self._messages,
            max_tokens=min(self._config.max_action_tokens, transcript.room),
            temperature=self._spec.temperature,
            seed=self._seeds.getrandbits(31),
        )
        self._messages.append({"role": "assistant", "content": text})
        token_ids = self._chat.encode_action(text)[: transcript.room]
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


def _message(text: str, images: Sequence[EncodedImage]) -> dict[str, Any]:
    """What the environment shows, as a user's message: the images first, as in the built-in chat templates."""
    parts: list[dict[str, Any]] = [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{base64.b64encode(image.png).decode()}"}}
        for image in images
    ]
    return {"role": "user", "content": [*parts, {"type": "text", "text": text}]}
