"""One line for the death of a process or a node, of which Ray tells in dozens."""

from __future__ import annotations

import re
from collections.abc import Generator
from contextlib import contextmanager

from ray.exceptions import (
    LocalRayletDiedError,
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RayError,
    RaySystemError,
    RayTaskError,
    RpcError,
    WorkerCrashedError,
)

from envs.errors import FleetError

_DEATHS = (
    LocalRayletDiedError,
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RaySystemError,
    RpcError,
    WorkerCrashedError,
)
_REASONS = (
    (r"running low on memory|OutOfMemory", "Ray killed it because the memory of its node was nearly full"),
    (
        r"killed by the OOM killer|SIGKILL",
        "it was killed, perhaps because memory ran out (the kernel's log would say so)",
    ),
    (r"killed by `ray\.kill`", "it was ended"),
    (r"exit_actor", "it left, since it could no longer work"),
    (r"node (?:has died|is dead|was terminated|died)|NodeDied", "its node is gone"),
)
_MOST = 300


@contextmanager
def in_one_line() -> Generator[None]:
    """Raise FleetError, with the reason in one line, if a process dies whose place nobody takes, or Ray itself does."""
    try:
        yield
    except RayError as error:
        if not is_death(error):
            raise
        raise FleetError(f"{reason(error)}; resume=true goes on from the last checkpoint") from error


def is_death(error: BaseException) -> bool:
    """Whether a process, a node or Ray itself is gone, as opposed to an error that code raised."""
    cause = error.cause if isinstance(error, RayTaskError) else error
    return isinstance(cause, _DEATHS)


def reason(error: BaseException) -> str:
    """What happened, in one line: who died, on which machine, and why as far as Ray knows."""
    cause = error.cause if isinstance(error, RayTaskError) and error.cause is not None else error
    text = str(cause)
    why = next((why for pattern, why in _REASONS if re.search(pattern, text)), None)
    if why is None:
        return f"{type(cause).__name__}: {' '.join(text.split())[:_MOST]}"
    facts = dict(re.findall(r"^\t(class_name|pid|ip): (.+)$", text, re.MULTILINE))
    who = facts.get("class_name", "").rpartition(".")[2]
    place = f"process {facts['pid']} on {facts['ip']}: " if {"pid", "ip"} <= facts.keys() else ""
    return f"{who + ', ' if who and place else ''}{place}{why}"
