"""Whether an answer is right: by the rule that the task names, by a judge, or by a rubric."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from envs.errors import UsageError
from envs.scoring.lists import matched, parts
from envs.scoring.mathematics import equivalent
from envs.scoring.rules import rule
from envs.scoring.types import CRITICAL_WEIGHT, MAX_ANSWER_CHARACTERS, Kind, Scoring

if TYPE_CHECKING:
    from envs.scoring.judge import Judge

__all__ = ["MAX_ANSWER_CHARACTERS", "Grade", "Kind", "Scoring", "grade", "is_right", "verdict_on"]


async def is_right(question: str, answer: str, truth: str, scoring: Scoring, judge: Judge | None = None) -> bool:
    """Whether `answer` is right; it is not if a judge gives no verdict. Raises as `verdict_on`."""
    return bool(await verdict_on(question, answer, truth, scoring, judge))


async def verdict_on(question: str, answer: str, truth: str, scoring: Scoring, judge: Judge | None = None) -> bool | None:
    """Whether `answer` is the truth or one of the other accepted answers; docs/scoring.md says what each kind accepts.

    None if the judge was asked and replied without a verdict. For the kind JUDGE, the judge is not asked if the text equals the
    truth; for RUBRIC it is `Grade.passed`. Raises InfrastructureError if no judge can be reached, UsageError if none is configured.
    """
    if scoring.kind is Kind.RUBRIC:
        return (await grade(question, answer, truth, scoring, judge)).passed
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
        return await _required(judge).verdict(question, answer, truth)
    return False


@dataclass(frozen=True, slots=True)
class Grade:
    """What a rubric says of an answer.

    `passed` is whether it meets every critical criterion, or every one if none is critical; None if that hangs on a criterion on
    which the judge gave no verdict. `score` is the weight of the criteria that it meets as a share of all weights. They are
    VisualToolBench's two figures (arXiv:2510.12712), but that its code passes every answer if no criterion is critical.
    """

    passed: bool | None
    score: float


async def grade(question: str, answer: str, truth: str, scoring: Scoring, judge: Judge | None) -> Grade:
    """The grade of an answer by `scoring.rubrics`, about each of which the judge is asked. Raises as `verdict_on`."""
    if not answer.strip():
        return Grade(False, 0.0)
    asked = _required(judge)
    met = await asyncio.gather(*(asked.verdict(question, answer, truth, criterion) for criterion, _ in scoring.rubrics))
    weights = [weight for _, weight in scoring.rubrics]
    critical = [verdict for verdict, weight in zip(met, weights, strict=True) if weight >= CRITICAL_WEIGHT] or met
    passed = False if False in critical else None if None in critical else True
    return Grade(passed, sum(weight for verdict, weight in zip(met, weights, strict=True) if verdict) / sum(weights))


def _required(judge: Judge | None) -> Judge:
    if judge is None:
        raise UsageError("the tasks need a judge: write judge={url: …, model: …} among the environment's options")
    return judge


async def _equivalent_lists(answer: str, truth: str, scoring: Scoring) -> bool:
    expected = parts(truth)
    given = parts(answer, len(expected))
    if not expected or len(given) != len(expected):
        return False
    return matched([[await equivalent(one, other) for other in expected] for one in given], scoring.ordered)
