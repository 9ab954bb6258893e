"""The rules that need no model and no other process. No rule raises, whatever the answer."""

from __future__ import annotations

from envs.scoring.choices import choice
from envs.scoring.dates import date
from envs.scoring.lists import matched, parts
from envs.scoring.quantities import number
from envs.scoring.texts import exact
from envs.scoring.types import Kind, Scoring

__all__ = ["exact", "rule"]


def rule(kind: Kind, answer: str, truth: str, scoring: Scoring) -> bool:
    """Whether the answer is right by the rule of a kind; the rule of MATH is here that the texts are the same, of JUDGE EXACT's.

    No answer is right by a rule if its kind is RUBRIC.
    """
    if kind is Kind.RUBRIC:
        return False
    if not answer.strip():
        return answer == truth != ""
    if answer.strip() == truth.strip():
        return True
    if kind is Kind.NUMBER:
        return number(answer, truth, scoring)
    if kind is Kind.CHOICE:
        return choice(answer, truth, scoring)
    if kind is Kind.DATE:
        return date(answer, truth)
    if kind is Kind.LIST:
        return _lists(answer, truth, scoring)
    return kind is not Kind.MATH and exact(answer, truth)


def _lists(answer: str, truth: str, scoring: Scoring) -> bool:
    expected = parts(truth)
    given = parts(answer, len(expected))
    if not expected or len(given) != len(expected):
        return False
    return matched([[rule(scoring.item, one, other, scoring) for other in expected] for one in given], scoring.ordered)
