"""A question goes where the pass rates send it; answers that are missing send nothing anywhere."""

from types import SimpleNamespace

import pytest

from curation.report import Item, Report
from curation.selection import Destination, Reason, Thresholds, Tries, destination, is_hard
from envs.errors import UsageError

RL, COLD, DROPPED = Destination


def tries(right, of=8, **missing):
    return Tries(right, of, {Reason(name): count for name, count in missing.items()})


@pytest.mark.parametrize(
    ("without", "with_tools", "thresholds", "expected"),
    [
        (tries(0), tries(8), {}, (RL, None)),
        (tries(2), tries(1), {}, (RL, None)),
        (tries(0), tries(0), {}, (COLD, None)),
        (tries(2), tries(0), {}, (COLD, None)),
        (tries(3), tries(8), {}, (DROPPED, Reason.too_easy)),
        (tries(3), None, {}, (DROPPED, Reason.too_easy)),
        (tries(4, 16), tries(1, 16), {}, (RL, None)),
        (tries(5, 16), tries(1, 16), {}, (DROPPED, Reason.too_easy)),
        (tries(3), tries(8), {"max_pass_rate_without": 0.5}, (RL, None)),
        (tries(0), tries(1), {"min_pass_rate_with": 0.25}, (COLD, None)),
        (tries(0), tries(2), {"min_pass_rate_with": 0.25}, (RL, None)),
        (tries(0), tries(8), {"max_pass_rate_with": 0.99}, (DROPPED, Reason.mastered)),
        (tries(2), tries(1), {"min_benefit": 0.125}, (DROPPED, Reason.little_benefit)),
        (tries(2), tries(3), {"min_benefit": 0.125}, (RL, None)),
        (tries(1, 10), tries(3, 10), {"min_benefit": 0.2}, (RL, None)),
        (tries(0, 7, unplayed=1), tries(1), {}, (RL, None)),
        (tries(2, 7, unplayed=1), tries(1), {}, (DROPPED, Reason.unplayed)),
        (tries(0), tries(0, 7, unjudged=1), {}, (DROPPED, Reason.unjudged)),
        (tries(0), tries(1, 1, failed=7), {}, (RL, None)),
        (tries(0, 0, failed=8), tries(1), {}, (DROPPED, Reason.failed)),
        (tries(8, 8), tries(0, 0, unplayed=8), {}, (DROPPED, Reason.too_easy)),
    ],
)
def test_the_pass_rates_choose_the_set(without, with_tools, thresholds, expected):
    assert destination(without, with_tools, Thresholds(**thresholds)) == expected


@pytest.mark.parametrize(
    ("without", "hard"), [(tries(2), True), (tries(3), False), (tries(2, 7, failed=1), True), (tries(3, 7, failed=1), False)]
)
def test_what_may_be_hard_is_asked_with_tools(without, hard):
    assert is_hard(without, Thresholds()) is hard


def answer(correct=True, calls=0, failed=False, unplayed=False, error=None, **parts):
    trajectory = SimpleNamespace(correct=correct, tool_calls=calls, reward_parts=parts)
    return SimpleNamespace(trajectory=trajectory, chains=[trajectory], failed=failed, unplayed=unplayed, error=error)


def test_answers_without_an_outcome_are_neither_right_nor_wrong():
    answers = [
        answer(calls=2),
        answer(correct=False),
        answer(correct=False, failed=True, error="no room"),
        answer(correct=False, unplayed=True, error="refused"),
        answer(correct=False, judge_no_verdict=1.0),
    ]
    found = Tries.of(answers)
    assert found == Tries(1, 2, {Reason.failed: 1, Reason.unplayed: 1, Reason.unjudged: 1}, calling=1, error="no room")
    assert (found.rate, found.tool_use) == (0.5, 0.5)


def test_each_warning_names_the_first_of_its_own_questions():
    def item(name, reason, detail):
        return Item(name, (), "", tries(0), None, DROPPED, reason, detail)

    items = [item("a", Reason.unplayed, "no room"), item("b", Reason.unjudged, None), item("c", Reason.unreadable, "odd")]
    lines = Report(SimpleNamespace(), ("code",), tuple(items)).warnings()
    named = [line.partition("(the first: ")[2] for line in lines if line.startswith("warning: ")]
    assert named == ["a: no room)", "", "c: odd)"]


def test_a_threshold_is_a_share():
    with pytest.raises(UsageError, match=r"thresholds\.max_pass_rate_without=2: write a share between 0 and 1"):
        Thresholds(max_pass_rate_without=2).check()
    with pytest.raises(UsageError, match=r"max_pass_rate_with=0\.1 is below min_pass_rate_with or min_benefit"):
        Thresholds(min_benefit=0.2, max_pass_rate_with=0.1).check()
