"""Whether an answer is right: short answers in ordinary spellings match, everything else does not."""

import pytest

from envs.scoring import Scoring, is_right


@pytest.mark.parametrize(("answer", "truth"), [("Red", "red"), (" red. ", "red"), ("1,234", "1234"), ("7.0", "7"), ('"7"', "7")])
async def test_equal_answers_match(answer, truth):
    assert await is_right("Q", answer, truth, Scoring())


@pytest.mark.parametrize(
    ("answer", "truth"),
    [("", "7"), ("77", "7"), ("red blue", "red"), ("7 or 8", "7"), ("7" * 300, "7"), ("nan", "7"), ("1e3", "1000")],
)
async def test_different_answers_do_not(answer, truth):
    assert not await is_right("Q", answer, truth, Scoring())


async def test_an_over_long_answer_is_wrong_even_if_it_is_the_truth():
    assert not await is_right("Q", "a" * 300, "a" * 300, Scoring())
