"""A model behind an endpoint acts in an episode: it is shown messages, and its replies become the student's tokens."""

from __future__ import annotations

import base64
import dataclasses
import json
import random
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from envs.errors import InfrastructureError
from envs.protocols import Call, Calls, Protocol, encodable
from envs.protocols.json_calls import write_call
from envs.runtime.deadlines import within
from envs.types import Observation
from rollout.config import EpisodeConfig, Thoughts
from rollout.episode.actors import OPENING, certain, closed
from rollout.episode.deadlines import turn_deadline_s
from rollout.episode.teacher_turns import native_turn, text_turn
from rollout.policy import ChatPolicy, Teaches
from rollout.tokens.chat_format import ChatFormat, ChatMessage
from rollout.tokens.transcript import Transcript
from rollout.types import EpisodeSpec, Generation

if TYPE_CHECKING:
    from envs.runtime.chat_endpoint import Message, Reply, RequestedCall

_ONE_ACTION = "(Only your first action was carried out: take one action per turn.)"
_ENDPOINT_SHARE = 0.9  # of a turn: past its end the turn would count against the model


class EndpointActor:
    """Its tokens count as sampled by version 0 with probability 1: how likely they were is not known.

    What it writes after its first whole turn is cut off, as a student's generation would have ended there; if that was another
    action, it is told so. With the protocol "native", or if the policy is a teacher that speaks so (`Teaches`), it is given the
    API's `tools` and may answer with `tool_calls`, which the student would have written as text.
    """

    def __init__(
        self,
        policy: ChatPolicy,
        chat: ChatFormat,
        spec: EpisodeSpec,
        config: EpisodeConfig,
        *,
        system: str | None = None,
        protocol: Protocol | None = None,
        tools: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self._policy, self._chat, self._spec, self._config, self._protocol = policy, chat, spec, config, protocol
        self._teacher = policy if protocol is not None and isinstance(policy, Teaches) else None
        self._native = protocol is not None and (protocol.native or (self._teacher is not None and self._teacher.native))
        self.opening = OPENING if protocol is not None and chat.opens_thoughts else ""
        self._tools = list(tools) if self._native else []
        self._messages: list[Message] = [] if system is None else [{"role": "system", "content": system}]
        self._call_ids: list[str] = []
        self._note = ""
        self._seeds = random.Random(spec.sampling_seed)

    async def act(
        self, transcript: Transcript, observation: Observation, messages: Sequence[ChatMessage]
    ) -> list[Generation] | None:
        self._messages += self._shown(messages)
        deadline_s = _ENDPOINT_SHARE * turn_deadline_s(self._config)
        options: dict[str, Any] = {"tools": self._tools} if self._tools else {}
        try:
            async with within(deadline_s):
                reply = await self._policy.complete(
                    self._messages,
                    max_tokens=min(self._config.max_action_tokens, transcript.room),
                    temperature=self._spec.temperature,
                    seed=self._seeds.getrandbits(31),
                    **options,
                )
        except TimeoutError:
            raise InfrastructureError(f"the endpoint gave no answer within {deadline_s:g} s") from None
        # Lone surrogates, which JSON can smuggle in, are neither tokens nor text that can be sent again.
        reply = dataclasses.replace(reply, text=encodable(reply.text), reasoning=encodable(reply.reasoning))
        reasoning = reply.reasoning
        if self._teacher is None:
            said = self._said(reply)
        else:
            said = self._taught(reply, self._teacher.thoughts)
            reasoning = "" if self._teacher.thoughts is Thoughts.drop else reasoning
        token_ids = self._chat.encode_action(closed(said, self.opening), () if self._protocol is None else self._protocol.stop)
        # A turn without text is the end of a turn; of one that was cut off, the end was not written.
        if said and (reply.finish_reason == "length" or len(token_ids) > transcript.room):
            if token_ids[-1] == self._chat.end_of_turn:
                token_ids = token_ids[:-1]
            return [certain(token_ids[: transcript.room], "length", reasoning)]
        return [certain(token_ids, reasoning=reasoning)]

    def _taught(self, reply: Reply, thoughts: Thoughts) -> str:
        """The reply of a teacher as its student is to write it."""
        assert self._protocol is not None
        if not self._native:
            return encodable(text_turn(self._protocol, self._said(reply), reply.reasoning, thoughts))
        written, count = native_turn(self._protocol, reply, thoughts)
        self._call_ids = [call.id for call in reply.tool_calls[:count]]
        if count < len(reply.tool_calls):
            self._note = _ONE_ACTION
        self._messages.append(_assistant(reply.text, reply.tool_calls[:count]))
        return encodable(written)

    def _said(self, reply: Reply) -> str:
        """The reply as the student would write it; the conversation keeps it in the endpoint's own form."""
        self._call_ids = []
        if self._native and reply.tool_calls:
            assert self._protocol is not None
            self._call_ids = [call.id for call in reply.tool_calls]
            self._messages.append(_assistant(reply.text, reply.tool_calls))
            written = self._protocol.write(Calls(tuple(Call(call.name, call.arguments) for call in reply.tool_calls)))
            return encodable(f"{reply.text}\n{written}" if reply.text else written)
        text = reply.text if self._protocol is None else self._protocol.first_turn(reply.text)
        if reply.tool_calls:  # unasked: its server has made them of the text
            write = write_call if self._protocol is None else self._written
            calls = [write(Call(call.name, call.arguments)) for call in reply.tool_calls]
            text = encodable("\n".join([*([text] if text else []), *calls]))
        elif self._protocol is not None and any(end in reply.text[len(text) :] for end in self._protocol.stop):
            self._note = _ONE_ACTION
        self._messages.append({"role": "assistant", "content": text})
        return text

    def _written(self, call: Call) -> str:
        assert self._protocol is not None
        return self._protocol.write(Calls((call,)))

    def _shown(self, messages: Sequence[ChatMessage]) -> list[Message]:
        """What the environment shows, in the API's roles: results belong to calls if the API made them, else to the user."""
        if self._note:
            *others, last = messages
            messages, self._note = [*others, dataclasses.replace(last, text=f"{last.text}\n{self._note}")], ""
        if self._call_ids:
            if len(self._call_ids) != len(messages):  # a remedy for the whole turn: the API wants an answer to each call
                messages = [ChatMessage("tool", "\n".join(message.text for message in messages))] * len(self._call_ids)
            shown: list[Message] = []
            for call_id, message in zip(self._call_ids, messages, strict=True):
                shown.append({"role": "tool", "tool_call_id": call_id, "content": message.text})
                if message.images:  # the API's tool messages hold text alone
                    shown.append(_user(ChatMessage("user", "The images that it returned:", message.images)))
            # Results first: the API wants them all right behind the calls.
            return sorted(shown, key=lambda message: message["role"] != "tool")
        return [
            _user(message if message.role != "tool" else ChatMessage("user", _response(message.text), message.images))
            for message in messages
        ]


def _assistant(text: str, calls: Sequence[RequestedCall]) -> Message:
    """An assistant's message, with its calls in the API's own form."""
    if not calls:
        return {"role": "assistant", "content": text}
    raw = [
        {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": json.dumps(call.arguments)}}
        for call in calls
    ]
    return {"role": "assistant", "content": text or None, "tool_calls": raw}


def _response(text: str) -> str:
    return f"<tool_response>\n{text}\n</tool_response>"


def _user(message: ChatMessage) -> Message:
    """A user's message: the images first, as in the built-in chat templates."""
    parts: list[Message] = [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{base64.b64encode(image.png).decode()}"}}
        for image in message.images
    ]
    return {"role": "user", "content": [*parts, {"type": "text", "text": message.text}]}
