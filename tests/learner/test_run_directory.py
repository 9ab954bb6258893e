"""The run directory: written whole or not at all, never over another run, and read back when a run is resumed."""

from dataclasses import replace

import pytest
from scripted import ScriptedTrainer

from envs.errors import UsageError
from learner.experiment import Experiment
from learner.run_directory import RunDirectory


class FullDisk(ScriptedTrainer):
    """Fails once it has written a part of its checkpoint."""

    def save(self, directory):
        super().save(directory)
        raise OSError("disk full")


@pytest.fixture
def config(tmp_path):
    return Experiment(out=str(tmp_path / "run"))


@pytest.fixture
def directory(config):
    run = RunDirectory(config)
    run.open(config)
    return run


def test_nothing_is_written_before_the_run_begins(config, tmp_path):
    RunDirectory(config)
    assert not (tmp_path / "run").exists()


def test_another_run_is_not_overwritten(config, directory):
    directory.note(base=True)
    with pytest.raises(UsageError, match="resume=true"):
        RunDirectory(config)


def test_progress_survives(config, directory):
    directory.note(base="finished")
    run_id = directory.run_id
    resumed = RunDirectory(replace(config, resume=True))
    assert resumed.progress["base"] == "finished"
    assert resumed.run_id == run_id


def test_a_stage_that_is_forgotten_is_done_again(config, directory):
    directory.note(control=True)
    directory.forget("control")
    directory.forget("never noted")
    assert "control" not in RunDirectory(replace(config, resume=True)).progress


def test_the_newest_checkpoint_is_found_by_number(directory):
    for step in (5, 10, 9):
        directory.save(ScriptedTrainer(), f"step_{step}", {"step": step})
    assert directory.newest("step").name == "step_10"
    assert directory.newest("cold_start") is None


def test_a_checkpoint_replaces_an_older_one_of_its_name(directory):
    trainer = ScriptedTrainer()
    for trainer.steps in (1, 2):
        checkpoint = directory.save(trainer, "cold_start", {})
    assert (checkpoint / "steps").read_text() == "2"
    assert [path.name for path in directory.checkpoints.iterdir()] == ["cold_start"]


def test_a_checkpoint_that_failed_is_not_there(directory):
    with pytest.raises(OSError, match="disk full"):
        directory.save(FullDisk(), "step_1", {})
    assert list(directory.checkpoints.iterdir()) == []


def test_what_a_killed_run_left_half_written_is_removed(config, directory):
    (directory.checkpoints / ".step_1.killed/policy").mkdir(parents=True)
    RunDirectory(config).open(config)
    assert list(directory.checkpoints.iterdir()) == []


def test_pruning_keeps_the_newest_and_the_chosen(directory):
    for step in range(1, 6):
        directory.save(ScriptedTrainer(), f"step_{step}", {})
    directory.prune("step", keep={1})
    assert sorted(path.name for path in directory.checkpoints.iterdir()) == ["step_1", "step_4", "step_5"]
