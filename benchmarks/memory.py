"""The memory of one more idle session, counted by the kernel for each process and read on the host."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

from benchmarks.figures import Figure
from benchmarks.peers import Peers
from sandbox import Limits, Pool

_SESSIONS = 4
_CELL = "print(6 * 7)"


async def add(private: Figure, growth: Figure, peers: Peers, limits: Limits) -> None:
    """Opens sessions and lets each run one trivial cell, then does the same with unjailed interpreters. In megabytes (10⁶ bytes).

    `private`: pages that only one process has mapped, summed over all processes of a session (its interpreter, its init, its slot).
    `growth`: the growth of all processes of the sandbox together for each session, every page counted once (the sum of
    proportional shares), including pages that a session's own processes share with one another.
    """
    with peers.repl() as first, contextlib.ExitStack() as opened:
        first.run(_CELL)
        async with Pool(limits, size=_SESSIONS, preload=peers.imports) as pool, contextlib.AsyncExitStack() as sessions:
            zygote = _descendants()
            before = _megabytes(zygote, "Pss")
            for _ in range(_SESSIONS):
                session = await sessions.enter_async_context(pool.session())
                await session.run(_CELL)
            everything = _descendants()
            ours_private = _megabytes(everything - zygote, "Private_Clean", "Private_Dirty")
            ours_growth = _megabytes(everything, "Pss") - before
            before += ours_growth
            second = opened.enter_context(peers.repl())
            second.run(_CELL)
            growth.add(ours_growth / _SESSIONS, _megabytes(_descendants(), "Pss") - before)
            private.add(ours_private / _SESSIONS, _megabytes([second.pid], "Private_Clean", "Private_Dirty"))


def _megabytes(pids: Iterable[int], *fields: str) -> float:
    total_kib = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            name, _, rest = line.partition(":")
            if name in fields:
                total_kib += int(rest.split()[0])
    return total_kib * 1024 / 1e6


def _descendants() -> set[int]:
    """The living processes below this one."""
    found: set[int] = set()
    frontier = {"self"}
    while frontier:
        children: set[str] = set()
        for pid in frontier:
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                for task in Path(f"/proc/{pid}/task").iterdir():
                    children |= set((task / "children").read_text().split())
        found |= set(map(int, children))
        frontier = children
    return found
