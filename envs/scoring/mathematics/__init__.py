"""Mathematical equivalence, in LaTeX or plain text. The whole of both texts must be read; what is words is compared as words."""

from __future__ import annotations

import logging
from fractions import Fraction

from envs.scoring.mathematics.client import ServerDied, client
from envs.scoring.mathematics.latex import Expression, expression
from envs.scoring.quantities import number
from envs.scoring.texts import exact
from envs.scoring.types import Kind, Scoring

log = logging.getLogger(__name__)
_PLAIN = Scoring(Kind.NUMBER)
_TOLERANCE = Fraction(1, 10**6)


async def equivalent(answer: str, truth: str) -> bool:
    """Whether two expressions are equivalent. False if one is not read wholly, is too large, or takes too long to compare."""
    decided = _at_once(answer, truth)
    if decided is not None:
        return decided
    for attempt in (1, 2):
        try:
            right = await client.compare(answer, truth)
        except ServerDied:
            log.warning("the process that compares expressions died, attempt %d", attempt)
            continue
        if right is None:
            log.warning("an answer was not compared with %.60r in time and is not right: %.60r", truth, answer)
        return bool(right)
    return False


def _at_once(answer: str, truth: str) -> bool | None:
    """The decision on texts that need no algebra; None for others."""
    expected = expression(truth)
    given = expression(answer, truth)
    if given.words or expected.words:
        return exact(answer, truth)
    if given.unit and expected.unit and given.unit != expected.unit:
        return number(answer, truth, _PLAIN)
    if given.latex == expected.latex and given.percent == expected.percent:
        return True
    if given.is_refused or expected.is_refused:
        return False
    if given.number is not None and expected.number is not None and given.percent == expected.percent:
        return _close(given, expected)
    return None


def _close(given: Expression, expected: Expression) -> bool:
    assert given.number is not None and expected.number is not None
    tolerance = _TOLERANCE * abs(expected.number) if given.decimal or expected.decimal else 0
    return abs(given.number - expected.number) <= tolerance
