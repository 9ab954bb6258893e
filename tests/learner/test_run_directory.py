"""The run directory: written whole or not at all, never over another run, and read back when a run is resumed."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from scripted import ScriptedTrainer, settings, start

from envs.errors import UsageError
from learner.experiment import CheckpointConfig, Experiment, Stage
from learner.run_files.run_directory import RunDirectory
from learner.train import run_rl


class FullDisk(ScriptedTrainer):
    """Fails once it has written a part of its checkpoint: at once, or, if `slow`, in the background."""

    def save(self, directory, done):
        super().save(directory, self.fail)

    def fail(self):
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


def test_a_run_whose_settings_are_gone_does_not_go_on_with_others(config, directory):
    directory.note(base="finished")
    (directory.path / "config.yaml").unlink()
    with pytest.raises(UsageError, match=r"config\.yaml, with the settings .* is gone: put it back, or write another out="):
        RunDirectory(replace(config, resume=True))


def test_progress_that_is_damaged_is_one_line(config, directory):
    directory.note(base="finished")
    (directory.path / "progress.json").write_text("")
    with pytest.raises(UsageError, match=r"progress.json is damaged .*: remove it, and resume=true"):
        RunDirectory(replace(config, resume=True))


def test_a_stage_that_is_forgotten_is_done_again(config, directory):
    directory.note(control=True)
    directory.forget("control")
    directory.forget("never noted")
    assert "control" not in RunDirectory(replace(config, resume=True)).progress


@pytest.mark.parametrize("slow", [False, True])
def test_a_checkpoint_that_failed_is_not_there(directory, slow):
    trainer = FullDisk()
    trainer.slow = slow
    with pytest.raises(OSError, match="disk full"):
        directory.save(trainer, "step_1", {})
        directory.save(trainer, "step_2", {})
    assert list(Path(directory.checkpoints.url).iterdir()) == []


@pytest.mark.parametrize("changed", [None, "memory://elsewhere"])
def test_a_resumed_run_finds_its_checkpoints_where_it_put_them(config, changed, tmp_path):
    config.checkpoint.dir = f"memory://{tmp_path.name}"
    directory = RunDirectory(config)
    directory.open(config)
    directory.save(ScriptedTrainer(), "step_1", {})
    resumed = replace(config, resume=True)
    assert RunDirectory(resumed).checkpoints.newest("step") == "step_1"
    with pytest.raises(UsageError, match=r"began with checkpoint\.dir=memory://test_"):
        RunDirectory(replace(resumed, checkpoint=CheckpointConfig(dir=changed)))
    with pytest.raises(UsageError, match="holds the checkpoints of another run"):
        RunDirectory(replace(config, out=config.out + "_another"))


def test_a_stage_whose_checkpoints_are_gone_does_not_begin_anew(tmp_path):
    config = settings(tmp_path / "run", stages=[Stage.rl])
    with start(config) as training:
        run_rl(training)
    shutil.rmtree(tmp_path / "run/checkpoints")
    with pytest.raises(UsageError, match="step_3 is not there any more, nor any other checkpoint of its stage: put it back"):
        run_rl(start(replace(config, resume=True)))


def test_what_is_no_progress_is_damaged(tmp_path):
    (tmp_path / "progress.json").write_text("null")
    with pytest.raises(UsageError, match=r"progress\.json is damaged \(it is no JSON object\): remove it"):
        RunDirectory(settings(tmp_path, resume=True))


def test_a_state_without_its_step_is_a_checkpoint_that_cannot_be_read(tmp_path):
    training = start(settings(tmp_path / "run", stages=[Stage.rl]))
    training.directory.checkpoints.begin("step_1")
    training.directory.checkpoints.commit("step_1", {"step": "x"})
    with pytest.raises(UsageError, match="has no global_step"):
        training.restore("step_1")
