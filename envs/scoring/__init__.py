"""Whether an answer is right: by the rule that the task names, or by a judge."""

from __future__ import annotations

from typing import TYPE_CHECKING

from envs.scoring.lists import matched, parts
from envs.scoring.mathematics import equivalent
from envs.scoring.rules import rule
from envs.scoring.types import MAX_ANSWER_CHARACTERS, Kind, Scoring

if TYPE_CHECKING:
    from envs.scoring.judge import Judge

__all__ = ["MAX_ANSWER_CHARACTERS", "Kind", "Scoring", "is_right", "verdict_on"]


async def is_right(question: str, answer: str, truth: str, scoring: Scoring, judge: Judge | None = None) -> bool:
    """Whether `answer` is right; it is not if a judge gives no verdict. Raises as `verdict_on`."""
    return bool(await verdict_on(question, answer, truth, scoring, judge))


async def verdict_on(question: str, answer: str, truth: str, scoring: Scoring, judge: Judge | None = None) -> bool | None:
    """Whether `answer` is the truth or one of the other accepted answers; docs/scoring.md says what each kind accepts.

    None if the judge was asked and replied without a verdict. For the kind JUDGE, the judge is not asked if the text equals the
    truth. Raises InfrastructureError if no judge can be reached, UsageError if none is configured.
    """
    if len(answer) >= MAX_ANSWER_CHARACTERS:
        return False
    truths = (truth, *scoring.accepted)
    if any(rule(scoring.kind, answer, each, scoring) for each in truths):
        return True
    if not answer.strip():
        return False
    if scoring.kind is Kind.MATH:
        return any([await equivalent(answer, each) for each in truths])
    if scoring.kind is Kind.LIST and scoring.item is Kind.MATH:
        return any([await _equivalent_lists(answer, each, scoring) for each in truths])
    if scoring.kind is Kind.JUDGE:
        from envs.errors import UsageError

        if judge is None:
            raise UsageError("the tasks need a judge: write judge={url: …, model: …} among the environment's options")
        return await judge.verdict(question, answer, truth)
    return False


async def _equivalent_lists(answer: str, truth: str, scoring: Scoring) -> bool:
    expected = parts(truth)
    given = parts(answer, len(expected))
    if not expected or len(given) != len(expected):
        return False
    return matched([[await equivalent(one, other) for other in expected] for one in given], scoring.ordered)
