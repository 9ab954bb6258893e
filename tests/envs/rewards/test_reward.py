"""What a user writes as `reward=`: parts by name, function or import path, with weights, or a whole rule. What is no finite number
is one line that names part and task."""

import asyncio
import functools
import threading

import numpy as np
import pytest
import reward_functions

from envs import Outcome, Task, ToolCall, ToolEnv, ToolStatus
from envs.errors import InfrastructureError, UsageError
from envs.rewards import DeepEyesReward, open_reward

SEVEN = Task("task-7", "What is 3 + 4?", "7", "reasoning", "test")
CALL = ToolCall("code", ToolStatus.OK, 0.1, "")


def outcome(answer="7", correct=True, well_formed=True, calls=(CALL,)):
    return Outcome(SEVEN, answer, ("x",), tuple(calls), 1, correct, well_formed)


async def score(setting, **fields):
    return await open_reward(setting)(outcome(**fields))


def refusal(setting):
    with pytest.raises(UsageError) as refused:
        open_reward(setting)
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize(
    "setting",
    [None, "deepeyes", {"deepeyes": None}, {"deepeyes": {}}, DeepEyesReward, DeepEyesReward(), "envs:DeepEyesReward"],
    ids=["none", "name", "mapping", "no options", "class", "object", "path"],
)
async def test_the_papers_rule_is_the_default_and_has_many_names(setting):
    assert await score(setting) == await DeepEyesReward()(outcome())


async def test_the_papers_rule_takes_options():
    assert (await score({"deepeyes": {"tool_discount": 1.0}}))[0] == 1.0


def test_an_option_that_the_rule_does_not_have_is_refused():
    assert "tool_discount" in refusal({"deepeyes": {"discount": 1}})


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("accuracy", (1.0, {"accuracy": 1.0})),
        (reward_functions.brief, (1.0, {"brief": 1.0})),
        (reward_functions.eager, (1, {"eager": 1})),
        ("reward_functions:brief", (1.0, {"brief": 1.0})),
        ("reward_functions:eager", (1.0, {"eager": 1.0})),
        ("reward_functions:rule", (0.25, {"brief": 1.0, "half": 0.5})),
        (reward_functions.Bonus(3), (3.0, {"Bonus": 3.0})),
        (reward_functions.Bonus, (2.0, {"Bonus": 2.0})),
        ("reward_functions:Bonus", (2.0, {"Bonus": 2.0})),
        ({"accuracy": 0.5, "reward_functions:brief": 2}, (2.5, {"accuracy": 1.0, "brief": 1.0})),
        ([{"accuracy": 0.5}, {"reward_functions:eager": -0.25}], (0.25, {"accuracy": 1.0, "eager": 1.0})),
        (["accuracy", "format"], (2.0, {"accuracy": 1.0, "format": 1.0})),
        ([{reward_functions.brief: 0.5}, reward_functions.eager], (1.5, {"brief": 1.0, "eager": 1.0})),
        ({"accuracy": 0}, (0.0, {"accuracy": 1.0})),
    ],
)
async def test_a_reward_is_its_weighted_parts(setting, expected):
    assert await score(setting) == expected


@pytest.mark.parametrize("rule", ["deepeyes", "reward_functions:rule"])
async def test_a_whole_rule_may_stand_among_weighted_parts(rule):
    reward, parts = await open_reward(rule)(outcome())
    total, logged = await score([{rule: 2.0}, {reward_functions.Bonus(): 0.5}])
    assert total == pytest.approx(2 * reward + 1.0)
    assert logged == parts | {rule.rpartition(":")[2]: reward, "Bonus": 2.0}


async def test_a_partial_is_called_like_its_function():
    def longer(outcome, than):
        return float(len(outcome.answer) > than)

    assert await score(functools.partial(longer, than=0)) == (1.0, {"longer": 1.0})


@pytest.mark.parametrize("value", [True, 1, np.float32(1), np.array([1.0])])
async def test_whatever_is_a_number_is_one(value):
    def part(outcome):
        return value

    assert await score(part) == (1.0, {"part": 1.0})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None, "1", b"1", [1.0], np.array([1.0, 2.0]), object()])
@pytest.mark.parametrize("weighted", [False, True], ids=["alone", "weighted"])
async def test_what_is_no_finite_number_names_part_and_task(value, weighted):
    def bonus(outcome):
        return value

    with pytest.raises(UsageError, match=r"part bonus returned .* for task task-7"):
        await score([{bonus: 0.5}] if weighted else bonus)


@pytest.mark.parametrize("returned", [(1.0,), (1.0, 2.0), (1.0, {}, {}), (1.0, {"half": None}), (None, {})])
async def test_a_rule_that_returns_something_else_is_refused(returned):
    def mine(outcome):
        return returned

    with pytest.raises(UsageError, match="task task-7"):
        await score(mine)


async def test_an_infrastructure_error_of_a_part_is_passed_on():
    async def judged(outcome):
        raise InfrastructureError("the judge is down")

    with pytest.raises(InfrastructureError):
        await score([{judged: 1.0}])


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("acuracy", "did you mean accuracy?"),
        ({"formt": 1.0}, "did you mean format?"),
        ([], "reward is empty"),
        ({}, "reward is empty"),
        ({"accuracy": "much"}, "the weight of accuracy is 'much'"),
        ({"accuracy": None}, "the weight of accuracy is None"),
        ({"accuracy": True}, "the weight of accuracy is True"),
        ({"accuracy": float("nan")}, "the weight of accuracy is nan"),
        ([{"accuracy": 1}, {"accuracy": 2}], "accuracy is listed twice"),
        (["reward_functions:brief", reward_functions.brief], "brief is listed twice"),
        ("reward_functions:number", "is not a function"),
        ("reward_functions:nothing", "has no nothing"),
        ("reward_functions:Needy", "size"),
        ("reward_functions:Silent", "__call__"),
        ("nowhere_at_all:x", "PYTHONPATH"),
        ([5], "5 is not a function"),
        ([None], "None is not a function"),
        (5, "reward=5"),
    ],
)
def test_what_cannot_be_a_reward_is_refused_in_one_line(setting, named):
    assert named in refusal(setting)


# In an environment.


async def finish(task, reward, answer):
    env = ToolEnv([task], tools=[], reward=reward)
    await env.reset_async(seed=0)
    _, value, *_, info = await env.finish(answer)
    return value, info["reward_parts"]


async def test_whether_the_answer_is_right_is_always_among_the_parts():
    assert await finish(SEVEN, reward_functions.brief, "7") == (1.0, {"accuracy": 1.0, "brief": 1.0})
    assert await finish(SEVEN, reward_functions.brief, "8") == (1.0, {"accuracy": 0.0, "brief": 1.0})


async def test_without_an_answer_nothing_is_right():
    assert await finish(SEVEN, reward_functions.brief, None) == (0.0, {"accuracy": 0.0, "brief": 0.0})


async def test_a_task_without_truth_is_judged_by_the_reward_alone():
    task = Task("open", "Write a poem.", "", "writing", "test")
    assert await finish(task, reward_functions.brief, "oh") == (1.0, {"brief": 1.0})


async def test_a_reward_sees_what_the_episode_was():
    seen = []

    def watch(outcome):
        seen.append(outcome)
        return 0.0

    await finish(SEVEN, watch, "8")
    (one,) = seen
    assert (one.task, one.answer, one.actions, one.tool_calls, one.turns, one.correct) == (SEVEN, "8", (), (), 1, False)


async def test_a_task_without_truth_has_no_correctness():
    def watch(outcome):
        assert outcome.correct is None
        return 1.0

    assert (await finish(Task("open", "Write.", "", "writing", "test"), watch, "oh"))[0] == 1.0


async def test_a_path_that_hydra_took_apart_is_put_together():
    """`{reward_functions:brief: 0.5}` on a command line arrives as the key `reward_functions` with the text "brief: 0.5"."""
    assert await score([{"reward_functions": "brief: 0.5"}]) == (0.5, {"brief": 1.0})


async def test_a_part_that_raises_is_named_with_its_task():
    def broken(outcome):
        raise KeyError("missing")

    with pytest.raises(UsageError, match="the part broken failed for task task-7: KeyError"):
        await score([{broken: 1.0}])


async def test_a_blocking_part_holds_up_no_other_episode():
    """The first part waits for the second one, which belongs to another episode."""
    done = threading.Event()
    first = asyncio.create_task(score([lambda outcome: float(done.wait(60))]))
    second = asyncio.create_task(score([lambda outcome: done.set() or 2.0]))
    assert ((await first)[0], (await second)[0]) == (1.0, 2.0)
