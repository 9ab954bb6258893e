"""Metrics go to `metrics.jsonl`, a line a step, and those of steps that will be made again are dropped."""

import json

import pytest

from learner.experiment import TrackingConfig
from learner.run_files.tracking import Tracker


@pytest.fixture
def said():
    """What the tracker says."""
    return []


@pytest.fixture
def tracker(tmp_path, said):
    tracker = Tracker(tmp_path, TrackingConfig(mode="disabled"), {}, "id", say=said.append)
    yield tracker
    tracker.finish()


def lines(directory):
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def test_a_line_names_its_stage_and_both_its_steps(tracker, tmp_path):
    tracker.log("rl", 2, 42, {"x": 1.5})
    assert lines(tmp_path) == [{"stage": "rl", "step": 2, "global_step": 42, "x": 1.5}]


def test_lines_from_a_step_on_are_dropped_and_so_is_one_that_was_cut_short(tracker, tmp_path, said):
    for step in range(4):
        tracker.log("rl", step, step + 10, {"x": step})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"cut sho')
    tracker.drop_from(12)
    tracker.log("rl", 2, 12, {"x": 20})
    assert [(line["global_step"], line["x"]) for line in lines(tmp_path)] == [(10, 0), (11, 1), (12, 20)]
    assert said == [f"{tmp_path}/metrics.jsonl: dropped the last line, which is half-written"]


def test_lines_without_a_record_are_dropped_and_counted_once(tracker, tmp_path, said):
    tracker.log("rl", 0, 10, {"x": 0})
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(b'broken\n\n[]\n{"stage": "rl", "step": 1}\n\xff\n{"stage": "rl", "step": 1, "global_step": 11}')
    tracker.drop_from(12)
    tracker.drop_from(12)
    assert [line["global_step"] for line in lines(tmp_path)] == [10, 11]
    assert said == [f"{tmp_path}/metrics.jsonl: dropped 4 lines without a record"]


def test_what_a_rollback_undoes_is_set_aside_whatever_else_is_there(tracker, tmp_path, said):
    for step in range(3):
        tracker.log("rl", step, step, {"x": step})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write("broken\n")
    tracker.set_aside(1, 1)
    undone = [json.loads(line) for line in (tmp_path / "rolled_back.jsonl").read_text().splitlines()]
    assert [(line["rollback"], line["x"]) for line in undone] == [(1, 1), (1, 2)]
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 4 and said == []


def test_a_run_without_metrics_has_none_to_drop(tracker, tmp_path):
    tracker.drop_from(0)
    assert not (tmp_path / "metrics.jsonl").exists()
