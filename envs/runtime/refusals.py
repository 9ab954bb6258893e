"""What an OpenAI-compatible endpoint means by refusing a request, and the form of request that it takes instead.

Servers share no error codes: most say what is wrong in the message alone, each in its own words. Those that are read here are
OpenAI's, Azure's, Anthropic's, Google's, Mistral's, DashScope's, Moonshot's, Cohere's, vLLM's, SGLang's, TGI's and llama.cpp's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Message = dict[str, Any]
"""One chat message in OpenAI's form: `role` and `content`."""

_TOO_LONG = re.compile(
    r"context[ _-]?(?:length|size|window)|maximum (?:model|prompt|context|sequence|input) length"
    r"|exceed\w* (?:the )?(?:max|model|token)|longer than the (?:model|max)|token limit|too many (?:input )?tokens"
    r"|(?:prompt|input|message|conversation|request)s?(?: text)?(?: is| are|'s)? too (?:long|large)"
    r"|range of input length|input (?:tokens?|length|token count)\b.{0,80}(?:exceed|must be|longer|limit)"
    r"|reduce the length of the (?:messages|prompt|input)|inputs tokens \+ max_new_tokens|string_above_max_length",
    re.IGNORECASE | re.DOTALL,
)
_NOT_TAKEN = re.compile(
    r"unsupported|not (?:be )?support|n't support|unrecogni[sz]ed|unknown|unexpected|extra[ _](?:forbidden|input|field|param)"
    r"|not (?:permitted|allowed|available|accepted|valid|implemented)|no longer|deprecated|cannot be (?:set|specified|used)"
    r"|only the default|only (?:be )?(?:set to )?1\b|invalid (?:param|argument|field)|no endpoints found that support",
    re.IGNORECASE,
)
_NO_TOOLS = re.compile(r"enable-auto-tool-choice|tool[ _-]?(?:choice|call\w*|use)s?\b|\btools\b|function[ _-]call", re.IGNORECASE)
_NO_PICTURES = re.compile(r"no endpoints found that support image", re.IGNORECASE)
_NO_SYSTEM = re.compile(
    r"\bsystem[ '\"`]*(?:role|message|prompt|instruction|turn)|developer instruction|role.{0,40}\bsystem\b|\bsystem\b.{0,40}role"
    r"|roles must alternate|\brole\b.{0,120}permitted: 'user', 'assistant'",
    re.IGNORECASE,
)
_UNPAID = re.compile(r"insufficient[ _](?:quota|balance|credit|fund)|exceeded your current quota|billing", re.IGNORECASE)
_FILTERED = re.compile(r"content[ _-]?(?:filter|polic|management)|moderation|flagged|safety", re.IGNORECASE)

_EVERY_REQUEST = (401, 402, 403, 404, 405)
"""Statuses that mean the address, the key, the account or the model's name: no other request would be taken either."""


def is_too_long(message: str, code: str | None) -> bool:
    """Whether a refusal says that the conversation, with the tokens asked for, exceeds the model's context."""
    return code == "context_length_exceeded" or bool(_TOO_LONG.search(message))


def is_for_every_request(status: int, message: str) -> bool:
    """Whether no request would be taken: the key, the account, the address or the model's name is wrong."""
    return (status in _EVERY_REQUEST and not (status == 403 and _FILTERED.search(message))) or bool(_UNPAID.search(message))


def takes_no_tools(message: str, sampling: Mapping[str, Any]) -> bool:
    """Whether a refusal says that the model, or its server, knows no `tools`."""
    return (
        "tools" in sampling and bool(_NO_TOOLS.search(message)) and ("enable-auto" in message or bool(_NOT_TAKEN.search(message)))
    )


def takes_no_pictures(message: str) -> bool:
    """Whether a refusal that has the status of a wrong address says that the model is not shown pictures: others may be asked."""
    return bool(_NO_PICTURES.search(message))


@dataclass
class RequestForm:
    """The form of request that one endpoint takes: parameters left out or called otherwise, and where the system prompt stands.

    It begins as configured and learns from refusals. `notes` say what was learned, a sentence each.
    """

    omit: set[str] = field(default_factory=set)
    rename: dict[str, str] = field(default_factory=dict)
    system_as_user: bool = False
    notes: list[str] = field(default_factory=list)

    def messages(self, messages: Sequence[Message]) -> list[Message]:
        """The conversation as the endpoint takes it: without system turns if it knows none, their text before the user's first."""
        return _without_system(messages) if self.system_as_user else list(messages)

    def parameters(self, sampling: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters as the endpoint takes them."""
        return {self.rename.get(name, name): value for name, value in sampling.items() if name not in self.omit}

    def learn(self, message: str, parameter: str | None, messages: Sequence[Message], sampling: Mapping[str, Any]) -> bool:
        """Read a refusal of a request that was made of `messages` and `sampling`; `parameter` is the one that it names, if any.

        Returns whether the request should be made again, in the form that was learned.
        """
        if "max_completion_tokens" in message and "max_tokens" in sampling and "max_tokens" not in self.omit | self.rename.keys():
            self.rename["max_tokens"] = "max_completion_tokens"
            self.notes.append("it wants max_completion_tokens in place of max_tokens")
            return True
        if not _NOT_TAKEN.search(message) and not _NO_SYSTEM.search(message):
            return False
        for name in sampling:
            sent = self.rename.get(name, name)
            if name not in self.omit and name != "tools" and (parameter == sent or re.search(rf"\b{re.escape(sent)}\b", message)):
                self.omit.add(name)
                self.notes.append(f"it does not take {sent}, which is left out: the model's own default applies")
                return True
        has_system = any(each["role"] == "system" for each in messages)
        if has_system and not self.system_as_user and _NO_SYSTEM.search(message):
            self.system_as_user = True
            self.notes.append("it takes no system prompt, which is put before the first text of the user")
            return True
        return False


def _without_system(messages: Sequence[Message]) -> list[Message]:
    system = "\n\n".join(str(each["content"]) for each in messages if each["role"] == "system")
    others = [each for each in messages if each["role"] != "system"]
    if not system:
        return others
    first = next((place for place, each in enumerate(others) if each["role"] == "user"), None)
    if first is None:
        return [{"role": "user", "content": system}, *others]
    content = others[first]["content"]
    merged = f"{system}\n\n{content}" if isinstance(content, str) else [{"type": "text", "text": system}, *content]
    return [*others[:first], others[first] | {"content": merged}, *others[first + 1 :]]
