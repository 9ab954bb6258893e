"""Statistics equal what NumPy computes by hand; an episode counts once, for each of its abilities."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trajectories import CODE, grouped, trajectory

from evaluation.alarm import CollapseAlarm
from evaluation.records import evaluation_record
from evaluation.tool_use import tool_advantage, tool_use_metrics, variance_parts
from rollout.summary import EpisodeSummary
from rollout.types import Episode, Group, StopReason

GROUPS = grouped(
    trajectory([CODE, CODE, ("code", "error", 3.0, "print(2)")], "a", 0, reward=1.0, correct=True),
    trajectory([], "a", 1, reward=0.25),
    trajectory([("search", "timeout", 9.0, "find")], "b", 0, reward=0.5, abilities=("search",)),
    trajectory([("search", "ok", 1.0, "find")], "b", 1, abilities=("search",)),
    trajectory([CODE], "b", 2, stop=StopReason.INFRASTRUCTURE),
)


def test_metrics_of_a_small_batch_by_hand():
    metrics = tool_use_metrics(GROUPS, CollapseAlarm())
    expected = {
        "tools/calls_per_episode/mean": 5 / 4,
        "tools/calls_per_episode/std": np.std([3, 0, 1, 1]),
        "tools/calls_per_episode/var": np.var([3, 0, 1, 1]),
        "tools/calls_per_episode/max": 3,
        "tools/variance/within_group": (2 * np.var([3, 0]) + 2 * np.var([1, 1])) / 4,
        "tools/variance/between_group": (2 * (1.5 - 1.25) ** 2 + 2 * (1 - 1.25) ** 2) / 4,
        "tools/zero_variance_groups": 0.5,
        "tools/repeat_rate": 1 / 5,
        "tools/use": 3 / 4,
        "tools/first_call_turn/mean": 1.0,
        "tools/gain": 1 / 3,
        "tools/gain_episodes": 3,
        "tools/code/runs": 2 / 3,
        "tools/code/unused": 1.0,
        "tools/code/errors/other": 1 / 3,
        "tools/search/errors/timeout": 1 / 2,
        "by_need/needed/tool_use": 3 / 4,
        "by_need/needed/accuracy": 1 / 4,
        "tools/code/frequency": 0.25,
        "tools/code/error_rate": 1 / 3,
        "tools/code/latency_s/p50": 1.0,
        "tools/code/latency_s/p99": np.percentile([1, 1, 3], 99),
        "tools/search/frequency": 0.5,
        "tools/search/error_rate": 0.5,
        "reward/with_tools": 0.5,
        "reward/without_tools": 0.25,
        "reward/tool_advantage": 0.75,
        "reward/accuracy": 0.25,
        "ability/search/reward/accuracy": 0.0,
        "critic/score/mean": 1.75 / 4,
        "critic/score/max": 1.0,
        "critic/score/min": 0.0,
        "response_length/mean": (4 + 1 + 2 + 2) / 4,
        "num_turns/mean": (8 + 2 + 4 + 4) / 4,
        "stop_reason/answered": 1.0,
        "stop_reason/time_limit": 0.0,
        "tools/collapse_alarm": 0.0,
        "ability/search/tools/calls_per_episode/mean": 1.0,
        "ability/search/tools/variance/within_group": 0.0,
        "ability/faking/tools/code/frequency": 0.5,
        "ability/faking/tools/collapse_alarm": 0.0,
    }
    assert {name: metrics[name] for name in expected} == pytest.approx(expected)
    assert "ability/search/reward/without_tools" not in metrics
    assert not any(name.startswith("by_need/not_needed") for name in metrics)
    assert "stop_reason/infrastructure" not in metrics


def test_summaries_of_episodes_give_the_same_figures():
    summaries = [Group(group.group_id, tuple(map(EpisodeSummary.of, group.episodes))) for group in GROUPS]
    assert tool_use_metrics(summaries, CollapseAlarm()) == tool_use_metrics(GROUPS, CollapseAlarm())


def test_a_step_without_an_outcome_has_no_metrics():
    with pytest.raises(ValueError, match="infrastructure"):
        tool_use_metrics(grouped(trajectory(stop=StopReason.INFRASTRUCTURE)))


def test_an_episode_of_several_chains_counts_once():
    whole = trajectory([CODE, CODE], "a", 0, reward=1.0)
    first = replace(whole, token_ids=[7, 7], loss_mask=[0, 1], logprobs=[0.0, -0.5], versions=[-1, 0], turns=whole.turns[:1])
    rest = {name: getattr(whole, name)[2:] for name in ("token_ids", "loss_mask", "logprobs", "versions")}
    second = replace(whole, **rest, turns=whole.turns[1:], chain=1, prompt_length=1)
    other = trajectory([], "a", 1)
    chained = [Group("a", (Episode((first, second)), Episode((other,))))]
    assert tool_use_metrics(chained) == tool_use_metrics(grouped(whole, other))


def test_an_episode_of_several_abilities_counts_for_each_in_metrics_and_evaluation_alike():
    both = [
        trajectory([CODE], "a", abilities=("perception", "search"), correct=True),
        trajectory([], "b", abilities=("perception",)),
        trajectory([CODE, CODE], "c", abilities=("search",), correct=True),
    ]
    groups = grouped(*both)
    metrics = tool_use_metrics(groups)
    record = evaluation_record("x", groups, policy="p", tasks="t", seed=0, temperature=1.0)
    assert set(record.by_ability) == {"perception", "search"}
    for name, accuracy, calls in (("perception", 0.5, 0.5), ("search", 1.0, 1.5)):
        part = record.by_ability[name]
        assert (part.episodes, part.accuracy, part.calls_per_episode.mean) == (2, accuracy, calls)
        assert metrics[f"ability/{name}/tools/calls_per_episode/mean"] == calls
        assert metrics[f"ability/{name}/reward/accuracy"] == accuracy
    assert not any("+" in name for name in metrics)


@given(st.lists(st.tuples(st.integers(0, 9), st.sampled_from("abcd")), min_size=1, max_size=40))
def test_within_and_between_add_up_to_the_variance(pairs):
    values = np.array([value for value, _ in pairs], float)
    groups = [np.array([value for value, name in pairs if name == group], float) for group in {group for _, group in pairs}]
    within, between = variance_parts(groups)
    assert within + between == pytest.approx(np.var(values), abs=1e-9)
    assert within == pytest.approx(sum(len(part) * np.var(part) for part in groups) / len(values), abs=1e-9)
    assert min(within, between) >= -1e-12


def parts(values, *sizes):
    return np.split(np.array(values), np.cumsum(sizes)[:-1])


def test_tools_are_compared_within_groups_alone():
    """Hard tasks call for the tool and score low: over all episodes the tool looks harmful, within the group it helps."""
    rewards, used = [0.3, 0.1, 1.0, 1.0], [True, False, False, False]
    assert tool_advantage(parts(rewards, 2, 2), parts(used, 2, 2)) == pytest.approx(0.2)
    assert tool_advantage(parts(rewards, 1, 3), parts(used, 1, 3)) is None


def test_an_episode_that_a_deadline_cut_off_was_not_right():
    right, other = trajectory([], "a", 0, correct=True), trajectory([], "a", 1)
    cut = replace(other, reward_parts={}, cut="rollout.episode.turn_s", stop_reason=StopReason.TIME_LIMIT)
    metrics = tool_use_metrics(grouped(right, cut))
    assert metrics["reward/accuracy"] == 0.5
    assert "reward/accuracy" not in tool_use_metrics(grouped(cut))  # nor does a rule without that part say how many were right


def test_the_entropy_is_that_of_all_that_was_sampled():
    sure, unsure = trajectory([], "a", 0), trajectory([CODE], "b", 0)
    sampled = [-logprob for of in (sure, unsure) for logprob, mask in zip(of.logprobs, of.loss_mask, strict=True) if mask]
    assert tool_use_metrics(grouped(sure, unsure))["rollout/entropy"] == pytest.approx(np.mean(sampled))
