"""`status.json` says where a run stands while it goes on and how it ended; it never ends a run, and the run never waits for it."""

import json
import logging
import os
import threading
import time
from contextlib import nullcontext

import pytest
from scripted import ScriptedFleet, ScriptedTrainer, episode, settings, start

from envs.errors import FleetError
from envs.runtime.progress import Incidents, silent
from learner.experiment import RLConfig, Stage
from learner.run_files import status as module
from learner.run_files.run_directory import RunDirectory
from learner.run_files.status import Curve, RunStatus, kept
from learner.stages import run_stages
from learner.training_run import TrainingRun


def watch(config, play):
    """Run the stages; the status whenever an episode is asked for, and that at the end."""
    directory, status, seen = RunDirectory(config), RunStatus([stage.value for stage in config.stages]), []
    directory.open(config)

    def answer(spec, steps):
        seen.append(status.snapshot())
        return play(spec, steps)

    parts = {"trainer": ScriptedTrainer(), "fleet": ScriptedFleet(answer), "status": status, "say": lambda text: None}
    run_stages(TrainingRun(config, "base", directory, progress=lambda title, total: nullcontext(silent), **parts))
    return seen, status.snapshot()


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    return watch(settings(tmp_path_factory.mktemp("seen") / "run"), lambda spec, steps: episode(spec, called=True))


def test_every_stage_is_named_with_its_steps(seen):
    during, _ = seen
    stages = {(one["stage"]["name"], one["stage"]["step"], one["stage"]["of"]) for one in during if one["stage"] is not None}
    assert {("cold start", 2, 4), ("RL", 0, 3), ("RL", 2, 3)} <= stages
    assert {one["state"] for one in during} == {"running"}


def test_what_is_done_within_a_step_or_between_stages_is_named(seen):
    during, end = seen
    doing = {one["doing"]["what"] for one in during}
    assert doing == {"measurement on test tasks", "measurement on validation tasks", "demonstrations", "rollout"}
    assert end["doing"] is None


def test_the_newest_metrics_timing_and_version_are_there(tmp_path):
    _, end = watch(settings(tmp_path / "run", stages=[Stage.rl]), lambda spec, steps: episode(spec, correct=steps > 0))
    assert end["metrics"]["critic/score/mean"] == 1.0
    assert end["curves"]["critic/score/mean"] == [0.0, 1.0, 1.0]
    assert {"rollout", "learn", "sync", "step"} <= end["timing_s"].keys()
    assert (end["policy_version"], end["stage"]) == (3, None)


def test_the_time_to_go_follows_from_the_last_steps(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    status = RunStatus()
    with status.watched(lambda title, total: nullcontext(silent))("RL", 10) as advance:
        assert status.snapshot()["stage"]["seconds_left"] is None
        for done in (1, 2):
            now[0] += 3
            advance(done, "")
        assert status.snapshot()["stage"]["seconds_left"] == 24
        now[0] += 1
        assert status.snapshot()["stage"]["seconds_left"] == 23
        advance(0, "")  # a rollback
        assert status.snapshot()["stage"]["seconds_left"] is None


def test_a_resumed_stage_knows_its_step_and_its_curves_before_it_has_taken_one(tmp_path):
    config = settings(tmp_path / "run", stages=[Stage.rl], rl=RLConfig(steps=4, groups=2, group_size=2, checkpoint_every=2))

    def dies(spec, steps):
        if steps == 3:
            raise FleetError("gone")
        return episode(spec)

    with pytest.raises(FleetError):
        watch(config, dies)
    config.resume = True
    during, _ = watch(config, lambda spec, steps: episode(spec))
    first = next(one for one in during if one["stage"] is not None)
    assert (first["stage"]["step"], first["curves"]["critic/score/mean"], first["policy_version"]) == (2, [1.0, 1.0], 2)


def test_a_value_that_the_last_step_lacks_is_the_last_one_and_no_mean_of_the_curve():
    status, name = RunStatus(), "by_need/needed/tool_use"
    for step in range(100):
        status.take({"stage": "rl", "step": step, "global_step": step, name: step})
    assert status.snapshot()["earlier"] == {}
    status.take({"stage": "rl", "step": 100, "global_step": 100})
    assert status.snapshot()["earlier"] == {name: 99.0} and status.snapshot()["curves"][name][-1] == 98.5


def test_an_alarm_stays(tmp_path):
    training = start(settings(tmp_path / "run"))
    training.alert("Tool use is collapsing", "RL step 3: tools were given up")
    assert [alarm["text"] for alarm in training.status.snapshot()["alarms"]] == ["RL step 3: tools were given up"]


def test_staleness_is_passed_on_under_the_name_of_its_metric():
    status = RunStatus()
    status.take({"stage": "rl", "step": 0, "global_step": 0, "rollout/staleness/mean": 1.5, "x": float("nan"), "y": None})
    assert status.snapshot()["staleness"] == {"rollout/staleness/mean": 1.5}


@pytest.mark.parametrize(
    ("error", "state", "line"),
    [
        (None, "finished", None),
        (FleetError("a worker died:\n it was killed"), "failed", "a worker died: it was killed"),
        (ValueError("no shares"), "failed", "with the place in the user's code"),
        (KeyboardInterrupt(), "interrupted", None),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_how_the_run_ended_is_the_last_that_is_written(tmp_path, error, state, line):
    with pytest.raises(type(error)) if error else nullcontext(), kept(RunStatus(["rl"]), tmp_path):
        assert read(tmp_path)["state"] == "starting"
        if error is not None:
            raise error
    said = read(tmp_path)["line"]
    assert read(tmp_path)["state"] == state
    assert said == line or said.startswith("ValueError: no shares (test_status.py, line ")
    assert (read(tmp_path)["pid"], read(tmp_path)["stages"]) == (os.getpid(), ["rl"])


def test_the_file_is_written_while_a_step_goes_on_and_nothing_is_new(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_LOOK_S", 0.01)
    monkeypatch.setattr(module, "_REPEAT_S", 0.05)
    with kept(status := RunStatus(), tmp_path):
        first = read(tmp_path)
        assert eventually(lambda: read(tmp_path)["written"] > first["written"])
        assert read(tmp_path)["advanced"] == first["advanced"]
        with status.doing("rollout"):
            assert eventually(lambda: read(tmp_path)["doing"] is not None)
        assert read(tmp_path)["advanced"] > first["advanced"]


def test_episodes_that_end_are_news(tmp_path):
    status, done = RunStatus(), iter(range(3))
    status.follow(lambda: {"episodes": {"of": 3, "finished": next(done)}})
    first, second = status.snapshot(), status.snapshot()
    assert first["advanced"] < second["advanced"]


def test_a_file_that_cannot_be_written_is_said_once_and_the_run_goes_on(tmp_path, monkeypatch, caplog):
    def full(path, content):
        raise OSError("disk full")

    monkeypatch.setattr(module, "_LOOK_S", 0.01)
    monkeypatch.setattr(module, "_REPEAT_S", 0.0)
    monkeypatch.setattr(module, "write_file", full)
    with caplog.at_level(logging.WARNING), kept(RunStatus(), tmp_path):
        time.sleep(0.05)
    assert [record.message for record in caplog.records] == [f"{tmp_path}/status.json cannot be written: disk full"]


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 100, 1000])
def test_a_curve_keeps_the_whole_series_in_few_numbers(count):
    curve = Curve(cells=4)
    for value in range(count):
        curve.add(float(value))
    values = curve.values()
    assert min(count, 4) <= len(values) <= 8
    assert values == sorted(values)
    if count:
        assert values[0] <= count / 4 and values[-1] >= count * 3 / 4 - 1


def test_failures_in_a_row_for_the_same_reason_are_one():
    incidents = Incidents(most=2)
    for kind, reason in [("episode", "a"), ("worker", "dead"), ("episode", "b"), ("episode", "b")]:
        incidents.add(kind, reason)
    assert [(one["kind"], one["reason"], one["times"]) for one in incidents.newest()] == [
        ("worker", "dead", 1),
        ("episode", "b", 2),
    ]
    assert incidents.counts() == {"episode": 3, "worker": 1}


def test_the_threads_that_look_take_no_part_in_the_run(tmp_path):
    """A snapshot of a fleet that is being changed is whole."""
    incidents, stop = Incidents(), threading.Event()
    status = RunStatus()
    status.follow(lambda: {"errors": incidents.newest(), "failures": incidents.counts()})

    def change():
        while not stop.is_set():
            incidents.add("episode", str(time.monotonic()))

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(50):
            json.dumps(status.snapshot())
    finally:
        stop.set()
        thread.join()


def read(directory):
    return json.loads((directory / "status.json").read_text())


def eventually(holds):
    for _ in range(500):
        if holds():
            return True
        time.sleep(0.01)
    return False
