"""What stands before a question: the system prompt, and the tools, shown by the chat template or explained in the prompt."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from envs.protocols import Protocol
from rollout.config import PROTOCOL_PROMPT, EpisodeConfig
from rollout.tokens.chat_format import ChatFormat


def protocol_of(env: Any) -> Protocol | None:
    """The protocol of an environment, which may be wrapped; None if it has none."""
    return getattr(env.unwrapped, "protocol", None)


def tool_schemas(env: Any) -> Sequence[Mapping[str, Any]]:
    """The tools of an environment with a protocol, in OpenAI's form."""
    return getattr(env.unwrapped, "tool_schemas", []) if protocol_of(env) is not None else []


def template_tools(env: Any, chat: ChatFormat) -> Sequence[Mapping[str, Any]] | None:
    """The tools that the chat template shows; None if the protocol or the template does not want it to."""
    protocol = protocol_of(env)
    return tool_schemas(env) if protocol is not None and protocol.tools_in_template and chat.shows_tools else None


def system_prompt(env: Any, config: EpisodeConfig, tools_shown: bool) -> str | None:
    """The configured prompt, and the protocol's instructions if they are asked for or the tools are shown nowhere else."""
    return explained(protocol_of(env), getattr(env.unwrapped, "instructions", None), config, tools_shown)


def explained(
    protocol: Protocol | None, instructions: Callable[..., str] | None, config: EpisodeConfig, tools_shown: bool
) -> str | None:
    """`system_prompt` of an environment that has this protocol, and the method `instructions` of a `ToolEnv`."""
    parts = [] if config.system_prompt in (None, PROTOCOL_PROMPT) else [config.system_prompt]
    in_template = protocol is not None and protocol.tools_in_template
    if (config.system_prompt == PROTOCOL_PROMPT or in_template) and instructions is not None:
        parts.append(instructions(with_tools=not (tools_shown and in_template)))
    return "\n\n".join(part for part in parts if part) or None


def reserved_tokens(config: EpisodeConfig) -> int:
    """Tokens that an observation leaves for the action that follows it."""
    return min(config.max_action_tokens, config.max_tokens // 8)
