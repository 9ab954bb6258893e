"""Runs untrusted Python in isolated sessions that keep state, cost milliseconds, and cannot reach the host or each other."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sandbox.pool import Pool
    from sandbox.session import Session
    from sandbox.types import Limits, Observer, Result, SandboxUnavailable, Status

__all__ = ["Limits", "Observer", "Pool", "Result", "SandboxUnavailable", "Session", "Status"]


def __getattr__(name: str) -> object:
    """A name of `__all__`, from its module, when it is first used: whoever asks for an error or a limit need not load the jail."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = {"Pool": "sandbox.pool", "Session": "sandbox.session"}.get(name, "sandbox.types")
    value = globals()[name] = getattr(import_module(module), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
