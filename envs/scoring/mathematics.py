"""Mathematical equivalence by math-verify, in a separate process."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache

_SECONDS = 5
log = logging.getLogger(__name__)


async def equivalent(answer: str, truth: str) -> bool:
    """Whether two expressions, LaTeX or plain, are equivalent. False if reading or comparing them takes longer than 5 s."""
    for attempt in (1, 2):
        try:
            return await asyncio.get_running_loop().run_in_executor(_process(), _compare, answer, truth)
        except BrokenProcessPool:
            log.warning("the process that compares expressions died, attempt %d", attempt)
            _process.cache_clear()
    return False


@lru_cache(maxsize=1)
def _process() -> ProcessPoolExecutor:
    """The process of math-verify, which limits its time by a signal: only the main thread of a process can receive one."""
    return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))


def _compare(answer: str, truth: str) -> bool:
    from math_verify import parse, verify

    try:
        gold = parse(f"${truth}$", parsing_timeout=_SECONDS) or parse(truth, parsing_timeout=_SECONDS)
        given = parse(f"${answer}$", parsing_timeout=_SECONDS) or parse(answer, parsing_timeout=_SECONDS)
        return bool(verify(gold, given, timeout_seconds=_SECONDS))
    except Exception:  # sympy may raise any error for any text; what it cannot read is not equivalent
        return False
