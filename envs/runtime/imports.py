"""Objects that a setting names as `module:name`."""

from __future__ import annotations

import importlib
from typing import Any

from envs.errors import UsageError


def load(path: str, what: str) -> Any:
    """The object at `module:name`. Raises UsageError, which says `what` was asked for, if there is none."""
    module, _, name = path.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except ModuleNotFoundError as error:
        raise UsageError(f"{what} {path!r}: there is no module {error.name}; put its folder into PYTHONPATH") from error
    except AttributeError:
        raise UsageError(f"{what} {path!r}: the module {module} has no {name}") from None
    return found
