"""Teachers: who is asked which question, in which form, how fast, and at what cost."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from curation.synthesis.journal import Replies
from curation.synthesis.ledger import Ledger, Pace
from curation.synthesis.settings import EXPERT, TeacherConfig, prompt_of
from envs.protocols import encodable
from envs.protocols.protocol import Schema
from envs.runtime.chat_endpoint import Message, Reply
from envs.runtime.deadlines import waiting
from rollout.config import EndpointConfig, Thoughts
from rollout.policy import ChatPolicy

Connect = Callable[[EndpointConfig], ChatPolicy]
"""Makes the client of an endpoint."""

IMAGE_TOKENS = 1500
"""What an image of a prompt is taken for, in tokens, before the endpoint has counted it: about one of a million pixels."""

_MILLION = 1e6
_NATIVE = (
    "Answer the question. You may call the tools that you are given, as often as it takes, and you see what they return. "
    "When you know the answer, write it bare between <answer> and </answer>: no unit, explanation or sentence that the question "
    "does not ask for."
)


class Teacher:
    """One teacher, whose client is made by `connect`; the script of the tasks has none. `count` gives the tokens of a text."""

    def __init__(
        self,
        name: str,
        config: TeacherConfig,
        thoughts: Thoughts,
        ledger: Ledger,
        replies: Replies,
        count: Callable[[str], int],
        connect: Connect,
    ) -> None:
        self.name, self.config, self.thoughts = name, config, thoughts
        self.prompt = None if config.prompt is None else prompt_of(config.prompt)
        self.policy = None if config.url == EXPERT else connect(config)
        self._ledger, self._replies, self._count = ledger, replies, count
        self._requests, self._tokens = Pace(config.requests_per_minute), Pace(config.tokens_per_minute)

    @property
    def notes(self) -> list[str]:
        """What its client has learned about the requests that it takes, and what could not be counted."""
        notes: list[str] = [*getattr(self.policy, "notes", ())]
        if self.policy is not None and self._ledger.budget is not None and not (self.config.price_in or self.config.price_out):
            notes.append(f"{self.name} has no price, so that its requests take nothing of the budget")
        if uncounted := self._ledger.of(self.name).uncounted:
            notes.append(
                f"{self.name}: {uncounted} replies came without a count of tokens: they are counted with the student's tokenizer, "
                "images left out"
            )
        return notes

    def session(self, episode: str) -> Session | None:
        """The teacher in one episode; None if it is the script."""
        return None if self.policy is None else Session(self, episode)

    async def ask(self, episode: str, messages: Sequence[Message], options: Mapping[str, Any]) -> Reply:
        """The reply, which is known already if it was asked before in this episode. Raises BudgetSpent, and as the client."""
        assert self.policy is not None
        request = _digest(self.config, messages, options)
        if (known := self._replies.get(episode, request)) is not None:
            return known
        texts, images = _parts(messages)
        texts += [json.dumps(schema) for schema in options.get("tools", ())]
        prompt = (sum(map(self._count, texts)) + IMAGE_TOKENS * images) if self._ledger.limited else 0
        most = options["max_tokens"] if self._ledger.limited else 0
        async with self._ledger.admitted(self._price(prompt, most), prompt + most):
            with waiting():
                await self._requests.wait()
                self._requests.charge(1)
                await self._tokens.wait()
            reply = await self.policy.complete(messages, **options)
            self._counted(episode, request, texts, reply)
        return reply

    def _counted(self, episode: str, request: str, texts: Sequence[str], reply: Reply) -> None:
        counted = reply.tokens_in is not None and reply.tokens_out is not None
        tokens_in = sum(map(self._count, texts)) if reply.tokens_in is None else reply.tokens_in
        said = [reply.text, reply.reasoning, *(json.dumps(call.arguments) for call in reply.tool_calls)]
        tokens_out = sum(self._count(encodable(part)) for part in said) if reply.tokens_out is None else reply.tokens_out
        facts = {"tokens_in": tokens_in, "tokens_out": tokens_out, "cost": self._price(tokens_in, tokens_out), "counted": counted}
        self._replies.add(episode, request, reply, teacher=self.name, **facts)
        self._ledger.of(self.name).add(**facts)
        self._tokens.charge(tokens_in + tokens_out)

    def _price(self, tokens_in: int, tokens_out: int) -> float:
        return (tokens_in * self.config.price_in + tokens_out * self.config.price_out) / _MILLION


class Session:
    """A teacher in one episode: a `rollout.policy.ChatPolicy` that `Teaches`."""

    version, healthy = 0, True

    def __init__(self, teacher: Teacher, episode: str) -> None:
        self._teacher, self._episode = teacher, episode
        self.native, self.thoughts = teacher.config.tool_calls, teacher.thoughts

    def teacher_prompt(self, explained: str) -> str | None:
        """The teacher's own prompt around the protocol's instructions."""
        instructions = _NATIVE if self.native else explained
        own = self._teacher.prompt
        if own is None:
            return instructions or None
        if "{instructions}" in own:
            return own.replace("{instructions}", instructions)
        return f"{own.rstrip()}\n\n{instructions}" if instructions else own

    async def complete(
        self, messages: Sequence[Message], *, max_tokens: int, temperature: float, seed: int, tools: Sequence[Schema] = ()
    ) -> Reply:
        """See `ChatPolicy`. Raises as `Teacher.ask`."""
        options: dict[str, Any] = {"max_tokens": max_tokens, "temperature": temperature, "seed": seed}
        return await self._teacher.ask(self._episode, messages, options | ({"tools": list(tools)} if tools else {}))

    async def close(self) -> None:
        """The client is the teacher's."""


def divided(shares: Mapping[str, float], count: int) -> list[str]:
    """Names for `count` places: after each of them, every name has had its share as nearly as possible."""
    total, had, places = sum(shares.values()), dict.fromkeys(shares, 0), []
    for place in range(1, count + 1):
        name = max(shares, key=lambda name: shares[name] / total * place - had[name])
        had[name] += 1
        places.append(name)
    return places


def _digest(config: TeacherConfig, messages: Sequence[Message], options: Mapping[str, Any]) -> str:
    asked = [config.url, config.model, config.extra, list(messages), dict(options)]
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def _parts(messages: Sequence[Message]) -> tuple[list[str], int]:
    """The texts of a request, and the number of its images."""
    texts, images = [], 0
    for message in messages:
        content = message["content"]
        for part in [{"text": content}] if isinstance(content, str) else content or []:
            images += part.get("type") == "image_url"
            texts += [part["text"]] if "text" in part else []
        texts += [json.dumps(call) for call in message.get("tool_calls", ())]
    return texts, images
