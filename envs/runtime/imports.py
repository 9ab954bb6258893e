"""Objects that a setting names: one of the project's by name, or anybody's as `module:name`."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable, Mapping
from typing import Any

from envs.errors import UsageError


def find(setting: str, value: str, known: Mapping[str, str]) -> Any:
    """The object that `value` names: `known` maps names to import paths. Raises UsageError, which names the `setting`."""
    path = known.get(value, value)
    if ":" not in path:
        raise unknown(setting, value, known)
    return load(path, setting)


def unknown(setting: str, value: str, known: Iterable[str]) -> UsageError:
    """The error for a name that does not exist, with the nearest one that does."""
    known = list(known)
    close = difflib.get_close_matches(value, known, 1)
    guess = f"did you mean {close[0]}? Write" if close else "write"
    return UsageError(f"{setting}={value}: there is no such name; {guess} {' or '.join(known)}, or module:name for your own")


def load(path: str, setting: str) -> Any:
    """The object at `module:name`. Raises UsageError, which names the `setting`, if there is none."""
    module, _, name = path.partition(":")
    if not module or not name:
        raise UsageError(f"{setting}={path}: write module:name")
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except ModuleNotFoundError as error:
        raise UsageError(f"{setting}={path}: there is no module {error.name}; put its directory into PYTHONPATH") from error
    except AttributeError:
        raise UsageError(f"{setting}={path}: the module {module} has no {name}") from None
    return found
