"""From what a user writes as `protocol=` to a protocol."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from envs.errors import UsageError
from envs.protocols.deepeyes import DeepEyes
from envs.protocols.hermes import Hermes, Native
from envs.protocols.protocol import Protocol
from envs.runtime.imports import load, unknown

PROTOCOLS: Mapping[str, type[Protocol]] = {kind.name: kind for kind in (DeepEyes, Hermes, Native)}
"""The built-in protocols by name."""


def open_protocol(setting: str | Mapping[str, Any] | Protocol | type[Protocol]) -> Protocol:
    """A protocol from its name, `module:Class`, `{name: {option: value}}`, or a protocol itself. Raises UsageError."""
    options: Mapping[str, Any] = {}
    if isinstance(setting, Mapping):
        if len(setting) != 1:
            raise UsageError(f"protocol={dict(setting)}: write one name with its options, as in {{hermes: {{answer: tag}}}}")
        ((setting, given),) = setting.items()
        options = given or {}
    if isinstance(setting, Protocol):
        return setting
    kind: Any = setting
    if isinstance(setting, str):
        kind = load(setting, "protocol") if ":" in setting else PROTOCOLS.get(setting)
    if kind is None:
        raise unknown("protocol", str(setting), PROTOCOLS)
    if isinstance(kind, Protocol):
        return kind
    if not (isinstance(kind, type) and issubclass(kind, Protocol)):
        raise UsageError(f"protocol {setting!r} is no Protocol: write a subclass of envs.Protocol")
    try:
        return kind(**options)
    except TypeError:
        known = ", ".join(inspect.signature(kind).parameters) or "no options"
        raise UsageError(f"protocol {setting}: {dict(options)}: it takes {known}") from None
