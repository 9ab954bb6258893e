"""Engines by name or import path: what `rollout.engine.kind` may be.

An engine is a class whose instances are a `rollout.policy.Policy` or `ChatPolicy`. A worker makes one as
`Class(config: RolloutConfig, version: int)`, on a thread, since a construction may block until the engine is ready. Classes are
imported when they are needed: vLLM takes seconds to import, and the driver needs none of them.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable

from envs.errors import UsageError
from rollout.config import RolloutConfig
from rollout.policy import ChatPolicy, Policy

ENGINES = {
    "vllm": "rollout.engines.vllm:VllmPolicy",
    "endpoint": "rollout.engines.endpoint:Endpoint",
    "none": "rollout.engines.none:NoPolicy",
}
"""Import paths by name."""


def import_path(kind: str) -> str:
    """The import path, `module:Class`, of an engine. Nothing is imported. Raises UsageError for an unknown name."""
    path = ENGINES.get(kind, kind)
    module, _, name = path.partition(":")
    if module and name:
        return path
    close = difflib.get_close_matches(kind, ENGINES, 1)
    guess = f"did you mean {close[0]}? Write" if close else "write"
    raise UsageError(f"there is no rollout.engine.kind={kind!r}: {guess} {', '.join(ENGINES)}, or module:Class for your own")


def find_engine(kind: str) -> Callable[[RolloutConfig, int], Policy | ChatPolicy]:
    """The class of an engine. Raises UsageError if there is no such name, module or class."""
    module, _, name = import_path(kind).partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        raise UsageError(
            f"rollout.engine.kind={kind!r} cannot be imported: there is no module {error.name}; put its directory into PYTHONPATH"
        ) from error
    except AttributeError as error:
        raise UsageError(f"rollout.engine.kind={kind!r}: the module {module} has no {name}") from error
