"""Objects that a setting names as `module:name`."""

from __future__ import annotations

import difflib
import importlib
from typing import Any

from envs.errors import UsageError


def load(path: str, what: str) -> Any:
    """The object at `module:name`. Raises UsageError, which says `what` was asked for, if there is none."""
    module, _, name = path.partition(":")
    if not module or not name or module.startswith("."):
        raise UsageError(f"{what} {path!r}: write module:name")
    try:
        found: Any = importlib.import_module(module)
    except Exception as error:
        raise UsageError(f"{what} {path!r}: {_trouble(module, error)}") from error
    for part in name.split("."):
        if not hasattr(found, part):
            close = difflib.get_close_matches(part, vars(found) if hasattr(found, "__dict__") else (), 1)
            remedy = f": did you mean {close[0]}?" if close else ""
            raise UsageError(f"{what} {path!r}: the module {module} has no {name}{remedy}")
        found = getattr(found, part)
    return found


def _trouble(module: str, error: Exception) -> str:
    if not isinstance(error, ModuleNotFoundError) or error.name is None:
        line = " ".join(str(error).split())
        return f"the module {module} cannot be imported: {type(error).__name__}: {line}"
    if module == error.name or module.startswith(f"{error.name}."):
        return f"there is no module {error.name}; put its folder into PYTHONPATH"
    return f"the module {module} imports {error.name}, which is not installed"
