"""Opens the protocol that the setting `protocol=` names."""

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
    """A protocol from its name, `module:Class`, `{name: {option: value}}`, or a protocol itself.

    Raises UsageError if there is no such protocol or it does not take the options.
    """
    options: Mapping[str, Any] = {}
    if isinstance(setting, Mapping):
        if len(setting) != 1:
            raise UsageError(f"protocol={dict(setting)}: write one name with its options, as in {{hermes: {{answer: tag}}}}")
        ((setting, given),) = setting.items()
        if given is not None and not isinstance(given, Mapping):
            raise UsageError(f"protocol={{{setting}: {given!r}}}: write its options by name, as in {{hermes: {{answer: tag}}}}")
        options = given or {}
    if isinstance(setting, Protocol):
        return setting
    kind: Any = setting
    if isinstance(setting, str):
        kind = load(setting, "protocol") if ":" in setting else PROTOCOLS.get(setting)
    if kind is None:
        raise unknown("protocol", str(setting), PROTOCOLS)
    if isinstance(kind, Protocol):
        if options:
            raise UsageError(f"protocol {setting!r} is an instance, which takes no options: name its class")
        return kind
    if not (isinstance(kind, type) and issubclass(kind, Protocol)):
        raise UsageError(f"protocol {setting!r} is not a Protocol: write a subclass of envs.Protocol")
    try:
        return kind(**options)
    except TypeError as error:
        name = setting if isinstance(setting, str) else kind.__name__
        if inspect.isabstract(kind):
            raise UsageError(f"protocol {name}: write its {', '.join(sorted(kind.__abstractmethods__))}") from None
        known = ", ".join(inspect.signature(kind).parameters) or "no options"
        raise UsageError(f"protocol {name}: {dict(options)}: it takes {known}") from error
