"""The commands as a user types them: bad input is answered with one line that says what to write instead, and exit status 2.

Of each way to end one test starts the real command; the others call the same `main` in this process."""

import errno
import json
import os
import subprocess
import sys
from contextlib import closing
from types import SimpleNamespace

import pytest
from command_line import ROOT, TOOLWISE, assert_one_line, run, run_here

import toolwise
from console import program
from envs.errors import UsageError
from envs.runtime.failures import _ROOMS
from envs.runtime.processes import claim
from rollout.store import Store
from rollout.types import Episode, StopReason, Trajectory, Turn


def test_an_unknown_command_is_answered_with_those_there_are():
    assert_one_line(run("trian"), "trian", "train")


def test_a_terminal_that_lacks_a_character_shows_another():
    result = run("help", PYTHONIOENCODING="ascii")
    assert (result.returncode, result.stderr) == (0, "")
    assert "?" in result.stdout


def test_an_unknown_setting_is_answered_with_the_nearest():
    assert_one_line(run("train", "rl.stepz=3"), "rl.stepz", "rl.steps")


def test_a_value_of_the_wrong_kind_names_its_setting():
    assert_one_line(run_here("train", "rl.steps=many"), "rl.steps", "many")


def test_an_unknown_experiment_is_answered_with_those_there_are():
    assert_one_line(run_here("train", "experiment=dmeo"), "dmeo", "demo")


def test_a_current_directory_that_is_gone_is_one_line(tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert_one_line(run_here("status", "run=/runs/demo"), "current directory", "cd ~")


def test_a_user_without_a_home_directory_has_the_root(monkeypatch):
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os, "getuid", lambda: 1 << 30)
    run_here("status", "run=/nowhere")
    assert os.environ["HOME"] == "/"


@pytest.mark.parametrize(("command", "going_on"), [("collect", "; resume=true goes on with it"), ("report", "")])
def test_a_full_disk_is_one_line_with_what_could_not_be_written(monkeypatch, command, going_on):
    def fill(overrides):
        raise OSError(errno.ENOSPC, "No space left on device", "/data/run/x.jsonl")

    monkeypatch.setattr(toolwise, command, fill)
    monkeypatch.setitem(toolwise.COMMANDS, command, fill)
    result = run_here(command)
    assert result.returncode == 1
    assert result.stderr == (
        f"toolwise {command}: infrastructure failed: the disk is full: /data/run/x.jsonl could not be written{going_on}\n"
    )


def test_an_error_of_the_users_own_code_is_one_line_with_its_place(monkeypatch, tmp_path):
    names = {}
    exec(compile("def train(overrides):\n    return {}['key']\n", str(tmp_path / "mine.py"), "exec"), names)
    monkeypatch.setitem(toolwise.COMMANDS, "report", names["train"])
    result = run_here("report")
    assert (result.returncode, result.stderr) == (
        1,
        "toolwise report: your own code failed: KeyError: 'key' (mine.py, line 2, in train)\n",
    )


def test_two_commands_do_not_write_into_one_directory(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "run")
    (tmp_path / "run").mkdir()
    with closing(claim(str(tmp_path / "run"))):
        assert_one_line(run_here("collect", f"out={tmp_path}/link"), "another command is writing there", "another out=")
    assert claim(str(tmp_path / "run")) is not None


def test_a_file_that_may_not_be_read_is_one_line(monkeypatch):
    monkeypatch.setitem(toolwise.COMMANDS, "report", lambda overrides: os.stat("/nowhere/file"))
    monkeypatch.setattr("envs.runtime.failures._ROOMS", (*_ROOMS, "tests"))
    result = run_here("report")
    line = "toolwise report: infrastructure failed: FileNotFoundError: [Errno 2] No such file or directory: '/nowhere/file'\n"
    assert (result.returncode, result.stderr) == (1, line)


def test_a_missing_model_directory_is_named(tmp_path):
    assert_one_line(run_here("train", f"policy={tmp_path}/none", f"out={tmp_path}/run"), f"{tmp_path}/none", "policy=")
    assert not (tmp_path / "run").exists()


def test_view_takes_a_directory_without_a_key():
    assert_one_line(run_here("view", "run=runs/demo"), "write `view runs/demo`")


def test_the_next_command_can_be_called_from_where_the_user_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "")
    assert program() == os.path.join(os.path.dirname(sys.executable), "toolwise")
    monkeypatch.setenv("PATH", os.path.dirname(sys.executable))
    assert program() == "toolwise"
    monkeypatch.chdir(ROOT)
    assert program() == ".venv/bin/toolwise"


def test_the_command_after_a_run_measures_as_the_run_did(tmp_path, monkeypatch, capsys):
    """With its prompt, budgets and tasks: those of `train.jsonl` were learned from. Checkpoints at a URL are named."""
    record = SimpleNamespace(label="rl", policy="s3://b/step_2/policy")
    monkeypatch.setattr("learner.run.run", lambda config, **_: (tmp_path, [record]))
    monkeypatch.setattr("evaluation.report.table", lambda records: "")
    monkeypatch.setattr(toolwise, "_status", lambda records: 0)
    given = [f"out={tmp_path}", "tasks=train.jsonl", "task_options.test={path: test.jsonl, split: null}", "+options.max_turns=3"]
    assert toolwise.train(given) == 0
    assert f"toolwise evaluate run={tmp_path} out={tmp_path}/more\n" in capsys.readouterr().out
    assert toolwise.train([*given, "checkpoint.dir=s3://b"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "policy=s3://b/step_2/policy tasks=train.jsonl +options.max_turns=3 +options.path=test.jsonl out=" in said


def test_a_row_without_an_answer_is_named(tmp_path):
    questions = tmp_path / "questions.jsonl"
    questions.write_text(json.dumps({"question": "Q", "answer": "A"}) + "\n" + json.dumps({"question": "Q"}) + "\n")
    assert_one_line(run_here("train", f"tasks={questions}", f"out={tmp_path}/run"), str(questions), "row 2", "answer")
    assert not (tmp_path / "run").exists()


def test_more_gpus_than_there_are_is_refused(tmp_path):
    assert_one_line(
        run_here("train", "learner.gpus_per_worker=1", "learner.workers=64", f"out={tmp_path}/run"), "GPU", "gpus_per_worker=0"
    )
    assert not (tmp_path / "run").exists()


def test_a_cluster_that_does_not_answer_is_named(tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)  # a Ray that was started in this process has set it
    result = run("collect", "policy=random", f"out={tmp_path}/run", RAY_ADDRESS="127.0.0.1:1")
    assert_one_line(result, "RAY_ADDRESS=127.0.0.1:1", "unset RAY_ADDRESS", "RAY_AUTH_MODE=token")


def test_a_run_is_not_overwritten(tmp_path):
    (tmp_path / "progress.json").write_text("{}")
    assert_one_line(run_here("train", f"out={tmp_path}"), "resume=true", "out=")


@pytest.mark.skipif(os.geteuid() != 0, reason="hiding a system library in a mount namespace takes root")
def test_a_machine_without_nsjails_libraries_is_told_what_to_install(tmp_path):
    known = subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True, check=True).stdout
    library = next(line.split()[-1] for line in known.splitlines() if "libnl-route-3.so.200" in line)
    empty = tmp_path / "empty"
    empty.write_bytes(b"")
    hide = 'mount --bind "$1" "$(readlink -f "$2")" && shift 2 && exec "$@"'
    command = ["unshare", "--mount", "sh", "-c", hide, "sh", str(empty), library, *TOOLWISE, "train", f"out={tmp_path}/run"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert_one_line(result, "libnl-route-3-200")
    assert not (tmp_path / "run").exists()


def test_doctor_reports_every_check():
    result = run("doctor", "format=json")
    report = json.loads(result.stdout)
    assert {"level", "checks"} <= report.keys()


def test_a_trainer_that_is_not_there_is_answered_before_anything_is_written(tmp_path):
    assert_one_line(
        run_here("train", "learner.kind=mine:Trainer", f"out={tmp_path}/run"), "learner.kind=mine:Trainer", "PYTHONPATH"
    )
    assert not (tmp_path / "run").exists()


def test_a_model_that_is_not_there_is_answered_with_those_that_are():
    assert_one_line(run_here("model", "big"), "big", "starter")


def test_a_world_that_is_not_there_is_answered_with_those_that_are(tmp_path):
    assert_one_line(run_here("model", "starter", "world=moon", f"out={tmp_path}/new"), "world=moon", "mixture")
    assert not (tmp_path / "new").exists()


def test_a_starter_model_is_built_and_names_the_next_command(tmp_path, capsys):
    out = tmp_path / "starter"
    assert toolwise.model(["starter", "steps=1", "batch_size=2", "seed=4", f"out={out}"]) == 0
    assert json.loads((out / "pretraining.json").read_text())["config"]["seed"] == 4
    assert (out / "model.safetensors").exists()
    *_, wrote, following = capsys.readouterr().out.splitlines()
    assert wrote.startswith(f"wrote {out}/")
    assert following == f"next: .venv/bin/toolwise train policy={out}"


@pytest.fixture
def written_run(tmp_path):
    """A run directory with the records of two episodes, which a test may spoil."""
    records = [
        Trajectory(
            episode_id=f"episode-{number}",
            task_id="task",
            group_id=f"group-{number}",
            source="test",
            seed=number,
            token_ids=[1, 2],
            loss_mask=[0, 1],
            logprobs=[0.0, -1.0],
            versions=[-1, 0],
            prompt_length=1,
            turns=[Turn(action="<answer>1</answer>")],
            stop_reason=StopReason.ANSWERED,
        )
        for number in range(2)
    ]
    Store(tmp_path).write("episodes", [Episode((record,)) for record in records])
    return tmp_path


@pytest.mark.parametrize("place", [".", "trajectories", "trajectories/episodes.jsonl"])
def test_lint_finds_nothing_in_a_sound_run(written_run, place, capsys):
    assert toolwise.lint([str(written_run / place)]) == 0
    assert capsys.readouterr().out.endswith(": problems: 0, records: 2, files: 1\n")


def test_lint_prints_a_line_for_each_problem(written_run, capsys):
    file = written_run / "trajectories/episodes.jsonl"
    first = file.read_text().splitlines()[0]
    file.write_text("\n".join([first, first, "{}"]) + "\n")
    assert toolwise.lint([str(written_run)]) == 1
    *problems, counts = capsys.readouterr().out.splitlines()
    assert {problem.split(": ")[0] for problem in problems} == {"episodes.jsonl:2", "episodes.jsonl:3"}
    assert counts.endswith(f": problems: {len(problems)}, records: 3, files: 1")


def test_lint_names_a_path_that_is_missing(tmp_path):
    assert_one_line(run("lint", f"{tmp_path}/none"), f"{tmp_path}/none", "run directory")


@pytest.mark.parametrize("arguments", [[], ["a", "b"]])
def test_lint_takes_one_path(arguments):
    with pytest.raises(UsageError, match="lint takes one path"):
        toolwise.lint(arguments)


def test_lint_waits_at_no_fifo(written_run, tmp_path, capsys):
    os.mkfifo(tmp_path / "fifo.jsonl")
    with pytest.raises(UsageError, match=r"fifo.jsonl is no regular file: write a run directory"):
        toolwise.lint([str(tmp_path / "fifo.jsonl")])
    os.mkfifo(written_run / "trajectories/fifo.jsonl")
    assert toolwise.lint([str(written_run)]) == 1
    problem, counts = capsys.readouterr().out.splitlines()
    assert problem.startswith("fifo.jsonl: it cannot be read: ") and counts.endswith(": problems: 1, records: 2, files: 2")


def test_lint_refuses_what_holds_no_trajectories(tmp_path):
    (tmp_path / "evaluation.json").write_text("[]")
    for path in (tmp_path, tmp_path / "evaluation.json"):
        with pytest.raises(UsageError, match="there is no trajectory file"):
            toolwise.lint([str(path)])


def test_lint_takes_the_metrics_of_a_run_for_no_trajectories(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 0}\n')
    with pytest.raises(UsageError, match="its trajectories/ is not there"):
        toolwise.lint([str(tmp_path)])
