"""The run directory: written whole or not at all, never over another run, and cut back when a run is resumed."""

import json
from types import SimpleNamespace

import pytest

from envs.errors import UsageError
from learner.cold_start import _stopped_rising, is_verified
from learner.experiment import Experiment, TrackingConfig
from learner.run_directory import RunDirectory
from learner.tracking import Tracker


class ScriptedLearner:
    """Saves one file."""

    def __init__(self, fail=False):
        self.fail = fail

    def save(self, directory):
        directory.mkdir()
        (directory / "weights").write_text("w")
        if self.fail:
            raise OSError("disk full")


@pytest.fixture
def directory(tmp_path):
    config = Experiment(out=str(tmp_path / "run"))
    run = RunDirectory(config)
    run.open(config)
    return run


def test_nothing_is_written_before_the_run_begins(tmp_path):
    RunDirectory(Experiment(out=str(tmp_path / "run")))
    assert not (tmp_path / "run").exists()


def test_another_run_is_not_overwritten(directory):
    directory.note(base=True)
    with pytest.raises(UsageError, match="resume=true"):
        RunDirectory(Experiment(out=str(directory.path)))


def test_progress_survives(directory):
    directory.note(base="finished")
    assert RunDirectory(Experiment(out=str(directory.path), resume=True)).progress["base"] == "finished"


def test_the_newest_checkpoint_is_found_by_number(directory):
    for step in (5, 10, 9):
        directory.save(ScriptedLearner(), f"step_{step}", {"step": step})
    assert directory.newest("step").name == "step_10"


def test_a_checkpoint_that_failed_is_not_there(directory):
    with pytest.raises(OSError, match="disk full"):
        directory.save(ScriptedLearner(fail=True), "step_1", {})
    assert directory.newest("step") is None


def test_pruning_keeps_the_newest_and_the_chosen(directory):
    for step in range(1, 6):
        directory.save(ScriptedLearner(), f"step_{step}", {})
    directory.prune("step", keep={1})
    assert sorted(path.name for path in directory.checkpoints.iterdir()) == ["step_1", "step_4", "step_5"]


def test_metrics_beyond_the_checkpoint_are_dropped_on_resume(tmp_path):
    tracker = Tracker(tmp_path, TrackingConfig(mode="disabled"), {}, "id")
    for step in range(4):
        tracker.log("rl", step, {"x": step})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"cut sho')
    tracker.rewind(2)
    tracker.log("rl", 2, {"x": 20})
    tracker.finish()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["global_step"], line["x"]) for line in lines] == [(0, 0), (1, 1), (2, 20)]


@pytest.mark.parametrize(
    ("accuracies", "stopped"),
    [([], False), ([0.5], False), ([0.5, 0.5, 0.5], True), ([0.5, 0.6, 0.6], False), ([0.5, 0.6, 0.6, 0.605], True)],
)
def test_the_cold_start_ends_when_accuracy_stops_rising(accuracies, stopped):
    history = [(60 * (index + 1), accuracy) for index, accuracy in enumerate(accuracies)]
    assert _stopped_rising(history, patience=2, min_gain=0.01) is stopped


@pytest.mark.parametrize(
    ("correct", "statuses", "verified"),
    [(True, ["ok", None], True), (True, [None], True), (False, ["ok", None], False), (True, ["error", None], False)],
)
def test_a_demonstration_is_verified_only_if_right_and_free_of_errors(correct, statuses, verified):
    turns = [SimpleNamespace(succeeded=status in (None, "ok")) for status in statuses]
    assert is_verified(SimpleNamespace(correct=correct, turns=turns)) is verified
