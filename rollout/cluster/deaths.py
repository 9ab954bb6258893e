"""One line for the death of a process or a node, of which Ray tells in dozens."""

from __future__ import annotations

import re
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

import ray
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
_ENDED = r"killed by `ray\.kill`"
_REASONS = (
    (r"running low on memory|OutOfMemory", "Ray killed it because the memory of its node was nearly full"),
    (
        r"killed by the OOM killer|SIGKILL",
        "it was killed, perhaps because memory ran out (the kernel's log would say so), or crashed (its own log there: "
        "/tmp/ray/session_latest/logs/worker-*-{pid}.err)",
    ),
    (_ENDED, "it was ended"),
    (r"node (?:has died|is dead|was terminated|died)|NodeDied", "its node is gone"),
)
_MOST = 300
_ANSWER_S = 10.0


@contextmanager
def in_one_line(actors: Sequence[Any]) -> Generator[None]:
    """Raise FleetError, with the reason in one line, if a process dies whose place nobody takes, or Ray itself does.

    `actors` may be filled meanwhile. They are asked after any error: one that has lost its peer says that a connection was closed.
    """
    try:
        yield
    except RayError as error:
        death = error if is_death(error) else _death_among(actors)
        if death is None:
            raise
        raise FleetError(f"{reason(death)}; resume=true goes on from the last checkpoint") from error


def _death_among(actors: Sequence[Any]) -> RayError | None:
    for answer in [actor.__ray_ready__.remote() for actor in actors]:
        try:
            ray.get(answer, timeout=_ANSWER_S)
        except RayActorError as error:
            if not re.search(_ENDED, str(error)):  # the run has ended by now, and its processes with it
                return error
        except RayError:
            continue  # busy, or broken in another way
    return None


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
    return f"{who + ', ' if who and place else ''}{place}{why.format(pid=facts.get('pid', '*'))}"
