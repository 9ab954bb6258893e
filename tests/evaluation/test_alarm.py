"""The alarm tells a dip from a collapse, rings early if calls do not pay, says why, and is replayed from metrics."""

import json

import pytest
from trajectories import CODE, grouped, trajectory

from evaluation.alarm import CollapseAlarm
from evaluation.tool_use import tool_use_metrics


def ring(alarm, uses, advantage=0.4):
    return [alarm.update("", use, advantage) for use in uses]


def test_a_dip_that_recovers_is_silent_and_a_collapse_rings():
    dip = [0.8] * 10 + [0.5, 0.2, 0.1, 0.08, 0.1, 0.15, 0.2, 0.5] + [0.7] * 10
    assert not any(ring(CollapseAlarm(), dip))
    collapse = ring(CollapseAlarm(patience=10), [0.8] * 10 + [0.5] + [0.1] * 12)
    assert collapse == [False] * 20 + [True] * 3


def test_unlearning_a_tool_that_does_not_pay_is_silent():
    assert not any(ring(CollapseAlarm(), [0.8] * 10 + [0.0] * 30, advantage=-0.1))
    assert not any(ring(CollapseAlarm(), [0.8] * 10 + [0.0] * 30, advantage=None))


def test_the_alarm_stops_when_the_tool_comes_back_and_remembers_what_paid():
    alarm = CollapseAlarm(patience=3, warmup=2)
    ring(alarm, [0.9, 0.9, 0.9])
    assert ring(alarm, [0.0] * 4, advantage=None)[-1]
    assert alarm.ringing
    assert not ring(alarm, [0.6])[0]
    assert not alarm.ringing


def test_one_abilitys_collapse_rings_though_another_goes_on():
    alarm = CollapseAlarm(patience=2, warmup=1)
    for use in (0.9, 0.0, 0.0):
        alarm.update("", 0.5 + use / 2, 0.3)
        alarm.update("search", use, 0.3)
    assert alarm.ringing


def test_the_alarms_state_goes_through_json():
    first, second = CollapseAlarm(patience=6), CollapseAlarm(patience=6)
    ring(first, [0.8] * 5 + [0.1] * 4)
    second.load_state(json.loads(json.dumps(first.state())))
    assert ring(first, [0.1] * 3) == ring(second, [0.1] * 3) == [False, True, True]


def fall(alarm, gain, uses, **facts):
    """Use falls while of 20 calls a step on hard tasks the share `gain` helps."""
    return [alarm.update("", use, -0.1, tries=20, solved=round(20 * gain), right=0.5, **facts) for use in uses]


FALLING = [0.8] * 5 + [0.75, 0.7, 0.65, 0.6, 0.55, 0.5, 0.45]


def test_calls_that_do_not_pay_ring_before_half_of_the_use_is_lost():
    alarm = CollapseAlarm()
    rings = fall(alarm, 0.0, FALLING)
    assert True in rings
    assert FALLING[rings.index(True)] > 0.4
    assert alarm.reason.startswith("tools are being unlearned: ")
    assert "0% of the calls help" in alarm.reason


@pytest.mark.parametrize(
    ("gain", "uses"),
    [(0.4, FALLING), (0.0, [0.8] * 12), (0.0, [0.8] * 5 + [0.7, 0.9] * 4)],
    ids=["calls pay", "use stays", "use wavers"],
)
def test_otherwise_falling_use_is_silent(gain, uses):
    assert not any(fall(CollapseAlarm(), gain, uses))


def first_steps(uses, needed, tries, gains):
    """What the alarm says of the first steps of a recorded run: use, use where a tool is needed, and calls on hard tasks."""
    alarm = CollapseAlarm()
    return [
        alarm.update("", use, 0.1, tries=count, solved=round(gain * count), right=0.5, needed=of_needed)
        for use, of_needed, count, gain in zip(uses, needed, tries, gains, strict=True)
    ]


@pytest.mark.parametrize(
    ("uses", "needed", "tries", "gains", "rings"),
    [
        ([0.68, 0.48, 0.24, 0.15], [0.69, 0.75, 0.42, 0.19], [55, 34, 15, 14], [0.45, 0.38, 0.4, 0.21], 3),
        ([0.41, 0.22, 0.08], [0.58, 0.36, 0.14], [23, 16, 5], [0.22, 0.25, 0.0], 2),
    ],
    ids=["seed 0", "seed 2"],
)
def test_calls_that_are_needed_and_half_learned_ring_before_half_of_them_are_lost(uses, needed, tries, gains, rings):
    """The numbers are those of `experiment=dynamics/weak_cold_start`; these seeds lost all calls."""
    rang = first_steps(uses, needed, tries, gains)
    assert rang.index(True) + 1 == rings
    assert needed[rings - 1] > 0.5 * needed[0]


def test_a_slow_fall_is_silent_since_rl_has_time_to_find_out_where_calls_help():
    """The numbers are those of the first seed with an eighth of the learning rate."""
    uses = [0.68, 0.62, 0.52, 0.58, 0.62, 0.52, 0.55, 0.45, 0.47, 0.43, 0.37, 0.43]
    needed = [0.69, 0.75, 0.78, 0.71, 0.88, 0.79, 0.71, 0.67, 0.59, 0.70, 0.55, 0.64]
    tries = [55, 49, 31, 51, 49, 38, 57, 38, 33, 39, 27, 36]
    gains = [0.45, 0.31, 0.35, 0.43, 0.27, 0.16, 0.25, 0.42, 0.48, 0.33, 0.41, 0.17]
    assert not any(first_steps(uses, needed, tries, gains))


def test_a_dip_of_calls_most_of_which_help_is_silent():
    """The numbers are those of `experiment=demo`, seed 0, whose use fell as far and came back where it was needed."""
    uses, needed = [0.78, 0.52, 0.45, 0.47, 0.34, 0.35], [0.92, 0.93, 0.88, 0.75, 0.68, 0.77]
    assert not any(first_steps(uses, needed, [81, 37, 35, 56, 38, 43], [0.65, 0.38, 0.46, 0.75, 0.61, 0.49]))


def test_a_policy_that_never_calls_rings_at_the_end_of_the_warm_up_if_there_is_a_tool_to_call():
    alarm, without = CollapseAlarm(), CollapseAlarm()
    fall(alarm, 0.0, [0.0, 0.01, 0.0, 0.0, 0.0])
    fall(without, 0.0, [0.0] * 9, offered=False)
    assert alarm.reason.startswith("tools are not called: ")
    assert alarm.never_called
    assert without.reason is None


def test_a_policy_that_needs_no_tool_may_call_none():
    alarm = CollapseAlarm()
    for _ in range(9):
        alarm.update("", 0.0, None, right=0.97)
    assert not alarm.ringing


def test_a_state_is_calm_until_use_falls():
    alarm = CollapseAlarm()
    calm = []
    for use in [0.8] * 7 + [0.1] * 2:
        alarm.update("", use, 0.4)
        calm.append(alarm.calm)
    assert calm == [True] * 7 + [False] * 2


def test_metrics_replay_to_the_same_alarm():
    """Also for abilities, whose name may hold a slash."""
    used = [trajectory([CODE], "a", n, abilities=("see/far",), correct=n > 2) for n in range(4)]
    unused = [trajectory([], "b", n, abilities=("count",)) for n in range(4)]
    live, replayed = CollapseAlarm(warmup=1, patience=2), CollapseAlarm(warmup=1, patience=2)
    for groups in (grouped(*used, *unused), grouped(*unused), grouped(*unused)):
        metrics = json.loads(json.dumps(tool_use_metrics(groups, live, ["code"])))
        replayed.replay(metrics)
    assert replayed.state() == live.state()


def test_the_replay_of_a_run_without_tools_is_silent():
    alarm = CollapseAlarm()
    for _ in range(9):
        metrics = tool_use_metrics(grouped(*[trajectory([], "a", n, correct=False) for n in range(4)]), None, [])
        assert not alarm.replay(metrics | {"reward/accuracy": 0.1})


def test_the_state_of_an_earlier_version_is_read():
    alarm = CollapseAlarm()
    alarm.load_state({"": {"first_uses": [0.8] * 5, "advantage": 0.3, "low_steps": 9}})
    assert alarm.update("", 0.1, 0.3)
