"""Whether an answer is right: by the rule that the task names, or by a judge."""

from __future__ import annotations

from typing import TYPE_CHECKING

from envs.scoring.mathematics import equivalent
from envs.scoring.rules import exact, rule
from envs.scoring.types import MAX_ANSWER_CHARACTERS, Kind, Scoring

if TYPE_CHECKING:
    from envs.scoring.judge import Judge

__all__ = ["MAX_ANSWER_CHARACTERS", "Kind", "Scoring", "is_right"]


async def is_right(question: str, answer: str, truth: str, scoring: Scoring, judge: Judge | None = None) -> bool:
    """Whether `answer` is the truth or one of the other accepted answers.

    For the kind JUDGE, the judge is not asked if the text equals the truth. Raises InfrastructureError if no judge can be reached,
    UsageError if none is configured.
    """
    if len(answer) >= MAX_ANSWER_CHARACTERS:
        return False
    truths = (truth, *scoring.accepted)
    if any(rule(scoring.kind, answer, each, scoring) or exact(answer, each) for each in truths):
        return True
    if scoring.kind is Kind.MATH:
        return any([await equivalent(answer, each) for each in truths])
    if scoring.kind is Kind.JUDGE:
        from envs.errors import UsageError

        if judge is None:
            raise UsageError("the tasks need a judge: write judge={url: …, model: …} among the environment's options")
        return await judge.agrees(question, answer, truth)
    return False
