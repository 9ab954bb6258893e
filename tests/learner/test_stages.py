"""A run goes through its stages once and in order; resumed, it skips what is finished; its settings stay as they were composed."""

import copy
from dataclasses import replace

from scripted import metrics, settings, start

from configs import compose
from learner.experiment import Experiment, Stage
from learner.stages import run_stages


def labels(records):
    return [record.label for record in records]


def stages_logged(training):
    return list(dict.fromkeys(line["stage"] for line in metrics(training)))


def test_all_stages_run_in_order_and_are_measured(tmp_path):
    training = start(settings(tmp_path / "run"))
    records = run_stages(training)
    assert labels(records) == ["base", "cold_start", "rl", "control"]
    assert [record.policy.removeprefix(f"{training.directory.path}/") for record in records] == [
        "base",
        "checkpoints/cold_start/policy",
        "checkpoints/step_3/policy",
        "checkpoints/control/policy",
    ]
    assert stages_logged(training)[:2] == ["cold_start", "rl"]
    assert training.directory.progress.keys() >= {"base", "cold_start", "rl", "rl_seconds", "control", "global_step"}


def test_global_steps_are_numbered_over_all_stages(tmp_path):
    training = start(settings(tmp_path / "run"))
    run_stages(training)
    steps = [line["global_step"] for line in metrics(training)]
    assert steps == list(range(len(steps)))
    assert training.directory.progress["global_step"] == len(steps)


def test_only_the_stages_asked_for_run(tmp_path):
    training = start(settings(tmp_path / "run", stages=[Stage.rl]))
    assert labels(run_stages(training)) == ["base", "rl"]
    assert stages_logged(training) == ["rl"]
    assert training.trainer.calls == ["reset_optimizer", *["policy_step"] * 3]


def test_a_finished_run_does_nothing_more(tmp_path):
    config = settings(tmp_path / "run")
    records = run_stages(start(config))
    resumed = start(replace(config, resume=True))
    assert run_stages(resumed) == records
    assert resumed.fleet.collected == []
    assert resumed.trainer.calls == []


def test_a_longer_rl_goes_on_and_asks_for_another_control(tmp_path):
    config = settings(tmp_path / "run")
    run_stages(start(config))
    longer = start(replace(config, resume=True, rl=replace(config.rl, steps=5)))
    assert labels(run_stages(longer)) == ["base", "cold_start", "rl", "control"]
    assert longer.trainer.calls[:4] == ["load step_3", "policy_step", "policy_step", "load cold_start"]
    assert longer.directory.progress["rl"] == 5


def test_the_control_lasts_as_long_as_rl_took(tmp_path):
    config = settings(tmp_path / "run")
    training = start(config)
    training.directory.note(base=True, cold_start=True, rl=config.rl.steps, rl_seconds=0.0, global_step=7)
    training.save("cold_start", step=4)
    run_stages(training)
    assert "control" in training.directory.progress
    assert "supervised_step" not in training.trainer.calls


def test_settings_stay_as_they_were_composed(tmp_path):
    overrides = [
        f"out={tmp_path}/run",
        "stages=[cold_start,rl,control]",
        "tracking.mode=disabled",
        "seed=3",
        "cold_start.demonstrations=4",
        "cold_start.rehearsal=2",
        "cold_start.max_steps=2",
        "cold_start.validation_episodes=2",
        "rl.steps=2",
        "rl.groups=2",
        "evaluation.episodes=2",
    ]
    config = compose("train", Experiment, overrides)
    before = copy.deepcopy(config)
    run_stages(start(config))
    assert config == before
