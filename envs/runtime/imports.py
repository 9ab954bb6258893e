"""Objects that a setting names: a built-in one by name, any other as `module:name`."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any

from envs.errors import UsageError
from envs.runtime.failures import told


def find(setting: str, value: str, known: Mapping[str, str]) -> Any:
    """The object that `value` names: `known` maps names to import paths. Raises UsageError, which names the `setting`."""
    return load(import_path(setting, value, known), setting)


def import_path(setting: str, value: str, known: Mapping[str, str]) -> str:
    """The import path of what `value` names; nothing is imported. Raises UsageError for an unknown name."""
    path = known.get(value, value)
    module, _, name = path.partition(":")
    if not module or not name:
        raise unknown(setting, value, known)
    return path


def unknown(setting: str, value: str, known: Iterable[str]) -> UsageError:
    """The error for a name that does not exist, with the nearest one that does."""
    known = list(known)
    close = difflib.get_close_matches(value, known, 1)
    module, _, name = value.rpartition(".")
    own = f"{module}:{name}" if module and name else "module:name"
    guess = f"did you mean {close[0]}? Write" if close else "write"
    return UsageError(f"{setting}={value}: there is no such name; {guess} {' or '.join(known)}, or {own} for your own")


def load(path: str, setting: str) -> Any:
    """The object at `module:name`. Raises UsageError, which names the `setting`, if there is none."""
    module, _, name = path.partition(":")
    if not module or not name or module.startswith("."):
        raise UsageError(f"{setting}={path}: write module:name")
    found: Any = import_module(module, f"{setting}={path}")
    for part in name.split("."):
        if not hasattr(found, part):
            close = difflib.get_close_matches(part, vars(found) if hasattr(found, "__dict__") else (), 1)
            remedy = f": did you mean {close[0]}?" if close else ""
            raise UsageError(f"{setting}={path}: the module {module} has no {name}{remedy}")
        found = getattr(found, part)
    return found


def import_module(module: str, asked: str) -> ModuleType:
    """The module. Raises UsageError, which begins with what the user `asked` for, if it cannot be imported, for whatever reason."""
    try:
        return importlib.import_module(module)
    except Exception as error:
        raise UsageError(f"{asked}: {trouble(module, error)}") from error


def trouble(module: str, error: Exception) -> str:
    """Why a module cannot be imported, and what to do, as the end of a line."""
    if not isinstance(error, ModuleNotFoundError) or error.name is None:
        return f"the module {module} cannot be imported: {told(error)}"
    if module == error.name or module.startswith(f"{error.name}."):
        if module.endswith(".py") or "/" in module:
            return f"there is no module {module}: write its name without .py and folders, and put its directory into PYTHONPATH"
        return f"there is no module {error.name}; put its directory into PYTHONPATH"
    return f"the module {module} imports {error.name}, which is not installed"
