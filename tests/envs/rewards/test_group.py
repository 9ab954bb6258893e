"""Parts of a group equal what is computed by hand, are opened by name or import path beside those of an episode, add nothing to an
episode by itself, and each pays the hack that docs/rewards.md names."""

import pytest
import reward_functions

from envs import GroupMember, Outcome, Task, ToolCall, ToolStatus
from envs.errors import UsageError
from envs.rewards import GROUP_PARTS, PARTS, open_group_reward, open_reward

TASK = Task("t", "?", "7", "reasoning", "test")
R, W = True, False


def group(*members):
    """(right, calls) of each member."""
    return [GroupMember(right, calls) for right, calls in members]


@pytest.mark.parametrize(
    ("part", "members", "values"),
    [
        ("necessity", [(R, 1), (W, 1), (W, 0), (W, 0)], [1, 0, 0, 0]),  # nobody succeeds without a call
        ("necessity", [(R, 1), (R, 0), (W, 0), (W, 0), (W, 0)], [1, 0, 0, 0, 0]),  # a quarter does
        ("necessity", [(R, 1), (R, 0), (W, 0)], [0, 0, 0]),
        ("necessity", [(R, 1), (R, 2)], [0, 0]),  # unknown
        ("benefit", [(R, 1), (W, 1), (W, 0), (W, 0)], [0.5, 0.5, 0, 0]),
        ("benefit", [(W, 1), (R, 0)], [-1, 0]),
        ("benefit", [(R, 1), (R, 1)], [0, 0]),
        ("cost", [(R, 1), (R, 3), (W, 1), (W, 0)], [1, 0.5, 0, 0]),
        ("cost", [(R, 0), (R, 1)], [1, 0.5]),
        ("cost", [(W, 0), (W, 1)], [0, 0]),
    ],
)
def test_a_part_by_hand(part, members, values):
    assert GROUP_PARTS[part](group(*members)) == values


def test_weights_names_and_import_paths():
    reward = open_group_reward([{"accuracy": 0.8}, {"cost": 0.5}, {"reward_functions:rank": 0.1}])
    assert reward(group((R, 1), (W, 0))) == [(0.5, {"cost": 1.0, "rank": 0.0}), (0.1, {"cost": 0.0, "rank": 1.0})]
    assert open_group_reward("necessity")(group((R, 1), (W, 0)))[0] == (1.0, {"necessity": 1.0})


def test_the_learner_makes_no_part_of_an_episode_which_may_load_a_model():
    class Judge:
        def __init__(self):
            raise MemoryError

    assert open_group_reward([{Judge: 1.0}, {"cost": 0.5}]) is not None


@pytest.mark.parametrize("setting", [None, "deepeyes", [{"accuracy": 1.0}], {"deepeyes": {"tool_discount": 1.0}}, "their own", 3.5])
def test_other_settings_have_no_part_of_a_group(setting):
    assert open_group_reward(setting) is None


@pytest.mark.parametrize(
    "setting", ["cost", [{"accuracy": 0.8}, {"necessity": 0.2}], [{reward_functions.rank: 1}]], ids=["name", "weights", "function"]
)
async def test_an_episode_by_itself_gets_nothing_for_them(setting):
    right = Outcome(TASK, "7", ("x",), (ToolCall("code", ToolStatus.OK, 0.1, ""),), 1, True, True)
    reward, parts = await open_reward(setting)(right)
    assert (reward, set(parts)) == ((0.8, {"accuracy"}) if "accuracy" in str(setting) else (0, set()))


@pytest.mark.parametrize(
    ("part", "answer"),
    [
        ("reward_functions:short", r"the part short returned \[0.0\] for a group of 2"),
        ("reward_functions:broken", "the part broken failed for a group of 2: ZeroDivisionError"),
    ],
)
def test_a_part_without_a_number_for_each_is_refused(part, answer):
    with pytest.raises(UsageError, match=answer):
        open_group_reward(part)(group((R, 1), (W, 0)))


def outcome(right, calls):
    called = tuple(ToolCall("code", ToolStatus.OK, 0.1, "") for _ in range(calls))
    return Outcome(TASK, "7", ("x",), called, 1 + calls, right, True)


@pytest.mark.parametrize("part", ["call_bonus", "call_if_right"])
def test_a_bonus_for_calls_pays_an_empty_call_before_a_known_answer(part):
    assert PARTS[part](outcome(True, 1)) > PARTS[part](outcome(True, 0))


def test_the_bonus_pays_an_empty_call_before_a_wrong_answer_too_unless_it_is_conditional():
    assert (PARTS["call_bonus"](outcome(False, 1)), PARTS["call_if_right"](outcome(False, 1))) == (1, 0)


def test_necessity_pays_a_call_that_did_not_help():
    """A guess that is right one time in eight, behind an empty call: nothing without a call, the full part with it."""
    guesses = [(R, 1), *[(W, 1)] * 3, *[(W, 0)] * 4]
    assert GROUP_PARTS["necessity"](group(*guesses))[0] == 1


def test_benefit_pays_an_empty_call_for_what_others_calls_achieved():
    useful, empty_and_wrong = (R, 1), (W, 1)
    values = GROUP_PARTS["benefit"](group(useful, useful, empty_and_wrong, (W, 0)))
    assert values[2] == values[0] > 0


def test_cost_pays_a_lucky_guess_more_than_an_answer_that_was_looked_up():
    """One member of eight guesses right: all that called get half of what it gets."""
    values = GROUP_PARTS["cost"](group((R, 0), *[(R, 1)] * 7))
    assert values == [1.0, *[0.5] * 7]
