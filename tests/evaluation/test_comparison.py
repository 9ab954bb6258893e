"""Two runs are compared item by item, over the items that have an outcome in both; runs on other items are refused."""

import json

import pytest
from command_line import run_here
from trajectories import trajectory

from envs.errors import UsageError
from evaluation.comparison import CLUSTERS, compare
from evaluation.intervals import mcnemar_p, paired_difference
from rollout.store import Store
from rollout.types import Episode, StopReason


def write(directory, *episodes):
    """A directory as `evaluate` writes it."""
    Store(directory).write("episodes", [Episode((one,)) for one in episodes])
    return str(directory)


def items(*outcomes, samples=1):
    return [trajectory(group=f"{n}", number=m, correct=right) for n, right in enumerate(outcomes) for m in range(samples)]


def test_the_difference_is_paired_by_item_and_tested(tmp_path):
    report = compare(write(tmp_path / "a", *items(1, 1, 0, 0)), write(tmp_path / "b", *items(0, 1, 1, 1)))
    assert (report.items, report.accuracy, report.difference) == (4, (0.5, 0.75), 0.25)
    assert (report.only_first, report.only_second, report.p) == (1, 2, mcnemar_p(1, 2))
    assert report.ci95[0] < 0.25 < report.ci95[1]


def test_several_episodes_an_item_have_no_exact_test(tmp_path):
    report = compare(write(tmp_path / "a", *items(1, 0, samples=2)), write(tmp_path / "b", *items(1, 1, samples=2)))
    assert (report.items, report.difference, report.p, report.only_first) == (2, 0.5, None, None)


def test_runs_on_other_items_are_not_compared(tmp_path):
    with pytest.raises(UsageError, match=r"did not run the same items \(1 differ\)"):
        compare(write(tmp_path / "a", *items(1, 1)), write(tmp_path / "b", *items(1)))


def test_items_without_an_outcome_in_one_run_are_left_out(tmp_path):
    failed = trajectory(group="0", task_id="", stop=StopReason.INFRASTRUCTURE)
    report = compare(write(tmp_path / "a", *items(1, 0)), write(tmp_path / "b", failed, *items(1, 0)[1:]))
    assert (report.items, report.difference) == (1, 0.0)
    with pytest.raises(UsageError, match="no item in common"):
        compare(write(tmp_path / "c", *items(1)), write(tmp_path / "d", failed))


def test_a_directory_without_an_evaluation_is_named(tmp_path):
    with pytest.raises(UsageError, match="holds no evaluation"):
        compare(str(tmp_path), str(tmp_path))


def test_the_command_shows_the_comparison(tmp_path):
    run = write(tmp_path / "a", *items(1, 0))
    result = run_here("evaluate", f"compare=[{run},{run}]")
    assert result.returncode == 0, result.stderr
    assert "+0.0 points" in result.stdout


def test_items_of_one_question_are_compared_as_one(tmp_path):
    """Of three questions, of which one has two items, the second run alone solves both items of that one."""
    first, second = write(tmp_path / "a", *items(0, 0, 1, 1)), write(tmp_path / "b", *items(1, 1, 1, 1))
    asks = {"task-0": "q", "task-1": "q", "task-2": "r", "task-3": "s"}
    (tmp_path / "b" / CLUSTERS).write_text(json.dumps(asks))
    report = compare(first, second)
    assert (report.items, report.clusters, report.difference, report.p, report.only_second) == (4, 3, 0.5, None, None)
    assert report.ci95 == paired_difference([0, 1, 1], [1, 1, 1], [2, 1, 1]).ci95
    (tmp_path / "a" / CLUSTERS).write_text("[")
    with pytest.raises(UsageError, match=r"clusters\.json cannot be read"):
        compare(first, second)
