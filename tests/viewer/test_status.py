"""`toolwise status` tells a run that lives from one that is dead, says what is known of any run in a calm page, names the next
command, and waits for nothing heavy. The view of `toolwise train` is the same page, drawn over on a terminal."""

import fcntl
import io
import json
import os
import pty
import re
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
from rich.console import Console

import console
import reading
from envs.errors import UsageError
from envs.runtime.processes import pid_space, process_began
from evaluation.pages.history import read_history
from viewer.metrics import Metrics
from viewer.status.figures import bar, clock, duration, elapsed, sparkline
from viewer.status.page import WIDTH, Look, page
from viewer.status.reading import TAIL_BYTES, State, read_standing
from viewer.status.report import told

ROOT = Path(__file__).parents[2]
NOW = 1_800_000_000.0
CONFIG = "out: x\nstages:\n- cold_start\n- rl\nrl:\n  steps: 100\ncold_start:\n  max_steps: 600\n"


def status(**changes):
    """That of a run amid RL, as this very process would have written it a second ago."""
    return {
        "state": "running",
        "line": None,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "pid_began": process_began(os.getpid()),
        "pid_space": pid_space(),
        "began": NOW - 600,
        "written": NOW - 1,
        "advanced": NOW - 2,
        "stages": ["cold_start", "rl"],
        "stage": {"name": "RL", "step": 37, "of": 100, "began": NOW - 120, "seconds_left": 205.0, "text": ""},
        "doing": {"what": "rollout", "began": NOW - 2},
        "policy_version": 277,
        "metrics": {"critic/score/mean": 0.888, "tools/calls_per_episode/mean": 0.625, "tools/calls_per_episode/var": 0.234},
        "curves": {"critic/score/mean": [0.1, 0.5, 0.888], "tools/calls_per_episode/mean": [1.0, 0.8, 0.625]},
        "timing_s": {"rollout": 2.34, "learn": 0.15, "step": 2.53, "generate": 0.28, "tool": 0.55},
        "staleness": {},
        "workers": {"wanted": 2, "ready": 1, "replaced": 3},
        "sandboxes": {"pools": 2, "answered": 1, "open": 12, "free": 52, "waiting": 3, "restarts": 1},
        "episodes": {"of": 128, "finished": 90, "running": 32, "waiting": 6},
        "failures": {"worker": 3, "episode": 4},
        "errors": [{"time": NOW - 9, "kind": "worker", "reason": "a worker died: it was killed", "times": 2}],
        "alarms": [{"time": NOW - 30, "text": "RL step 30: tools were given up"}],
    } | changes


@pytest.fixture
def write(tmp_path):
    """Writes a run directory: `write(status=…, metrics=[…], …)`."""

    def make(config=CONFIG, **files):
        if config is not None:
            (tmp_path / "config.yaml").write_text(config)
        for name, content in files.items():
            if name == "metrics":
                (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in content) + '{"cut sho')
            else:
                (tmp_path / f"{name}.json").write_text(content if isinstance(content, str) else json.dumps(content))
        return tmp_path

    return make


@pytest.fixture(scope="module")
def ended():
    """The numbers of a process that was killed."""
    process = subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE)
    began = process_began(process.pid)
    process.kill()
    process.wait()
    return {"pid": process.pid, "pid_began": began}


def text(lines):
    return "\n".join(line.plain for line in lines)


@pytest.mark.parametrize(
    ("changes", "state", "why"),
    [
        ({}, State.running, "for 10 min; it last reported 1 s ago"),
        ({"state": "starting"}, State.starting, "it last reported"),
        ({"advanced": NOW - 400}, State.running, "nothing new for 6 min 40 s"),
        ({"written": NOW - 100}, State.silent, "has not reported for 1 min 40 s"),
        ({"pid_space": "elsewhere", "pid_began": 1}, State.running, "it last reported 1 s ago"),
        ({"pid_space": "elsewhere", "written": NOW - 61}, State.silent, "has not reported"),
        ({"pid_began": 1}, State.dead, "is no more"),  # another process has the number now
        ({"state": "finished"}, State.finished, "after 9 min 59 s"),
        ({"state": "failed", "line": "a worker died"}, State.failed, "a worker died"),
        ({"state": "interrupted"}, State.interrupted, "after"),
    ],
)
def test_the_state_of_a_run_follows_from_its_report(write, changes, state, why):
    standing = read_standing(str(write(status=status(**changes))), NOW)
    assert standing.state is state
    assert why in standing.why


def test_a_run_whose_process_was_killed_is_dead(write, ended):
    standing = read_standing(str(write(status=status(**ended))), NOW)
    assert (standing.state, standing.state.is_well) == (State.dead, False)
    assert standing.following == f"train out={standing.run} resume=true"
    assert "dead after 9 min 59 s, in: rollout for 1 s" in text(told(standing, NOW + 9999))


def test_the_page_says_what_a_person_asks_for(write):
    shown = text(told(read_standing(str(write(status=status(), evaluation=[record()])), NOW), NOW))
    for part in (
        "RL  37 of 100",
        "about 3 min 25 s to go",
        "rollout for 2 s · 90 of 128 episodes ended, 32 running, 6 waiting",
        "reward",
        "0.888",
        "var 0.23",
        "rollout 2.3 s · learn 150 ms",
        "1 of 2 ready · 3 replaced · 4 attempts failed · policy 277",
        "sandboxes       12 open · 52 free · 3 waiting · 1 restarts · 1 of 2 answer",
        "tools were given up",
        "2 times a worker died: it was killed",
        "base            49.8% (44.9% to 54.6%) of 400 episodes",
    ):
        assert part in shown
    assert "accuracy        " not in shown  # nothing is known of it


def record(**changes):
    return {"label": "base", "accuracy": 0.498, "ci95": [0.449, 0.546], "episodes": 400, "left_out": 0} | changes


def test_a_value_that_the_last_step_does_not_have_is_marked_as_an_earlier_one(write):
    curves = {"critic/score/mean": [0.1, 0.888], "by_need/needed/tool_use": [0.25, 0.5]}
    shown = text(page(status(curves=curves, earlier={"by_need/needed/tool_use": 0.5}), NOW)).splitlines()
    (reward,) = [line for line in shown if line.startswith("reward")]
    (use,) = [line for line in shown if line.startswith("used if needed")]
    assert reward.endswith("  0.888") and use.endswith("50.0 %  earlier")


def test_steps_that_a_run_writes_again_replace_the_earlier_ones(write):
    steps = [("cold_start", 0, 0), ("rl", 0, 1), ("rl", 1, 2), ("rl", 2, 3), ("rl", 1, 7), ("rl", 2, 8), ("control", 0, 0)]
    names = ("stage", "step", "critic/score/mean")
    directory = write(metrics=[dict(zip(names, one, strict=True)) | {"global_step": 0} for one in steps])
    known = read_standing(str(directory), NOW).status
    assert (known["curves"]["critic/score/mean"], known["stage"]["step"]) == ([1, 7, 8], 3)
    history, shown = read_history(directory), Metrics(directory / "metrics.jsonl").answer()["stages"]["rl"]
    assert {stage: len(lines) for stage, lines in history.stages.items()} == {"cold_start": 1, "rl": 3, "control": 1}
    assert [line["critic/score/mean"] for line in history.rl] == shown["series"]["critic/score/mean"] == [1, 7, 8]
    assert shown["steps"] == [0, 1, 2]


def test_of_a_run_without_a_report_the_other_files_tell(write):
    lines = [{"stage": "rl", "step": step, "global_step": step, "critic/score/mean": step / 9, "x": None} for step in range(9)]
    lines[4]["critic/score/mean"] = float("nan")
    directory = write(metrics=lines, progress={"base": True, "cold_start": True}, evaluation=[record()])
    os.utime(directory / "metrics.jsonl", (NOW, NOW))
    for name in ("progress.json", "evaluation.json"):
        os.utime(directory / name, (NOW - 999, NOW - 999))
    assert read_standing(str(directory), NOW + 5).state is State.running
    standing = read_standing(str(directory), NOW + 500)
    assert (standing.state, standing.following) == (State.unfinished, f"train out={directory} resume=true")
    assert "stages done: base, cold_start" in standing.why
    assert "rl  9 of 100" in text(told(standing, NOW + 500))
    assert "metrics.jsonl: the last line half-written" in text(told(standing, NOW + 500))
    write(progress={"base": True, "cold_start": True, "rl": 100})
    assert read_standing(str(directory), NOW + 500).state is State.finished


@pytest.mark.parametrize(
    "content", ['{"state": "run', "[]", '{"state": "odd"}', json.dumps({"state": "running"}), json.dumps(status(written="x"))]
)
def test_a_report_that_cannot_be_read_is_none(write, content):
    assert "there is no status.json" in read_standing(str(write(status=content)), NOW).why


def test_directories_of_other_commands_are_read_as_far_as_they_go(write):
    directory = write(config=None, evaluation=[record(accuracy=None, ci95=None)])
    (directory / "trajectories").mkdir()
    standing = read_standing(str(directory), time.time())
    assert (standing.state, standing.following) == (State.finished, f"view {directory}")
    assert "only `train` tells more" in standing.why
    assert "base: no accuracy, of 400 episodes" in text(told(standing, NOW))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"stage": "rl", "step": 0}\n\n', ""),
        (b'{"stage": "rl", "step": 0}', ""),  # a record, though its end is missing
        (b'{"stage": "rl", "step": 0}\nbroken\n[]\n', "metrics.jsonl: 2 lines unreadable"),
        (b'\0\n{"stage": "r', "metrics.jsonl: 1 line unreadable, the last line half-written"),
        (b"x" * TAIL_BYTES + b"\nbroken\n", "the last 4 MiB of metrics.jsonl: 1 line unreadable"),
    ],
)
def test_broken_lines_of_metrics_are_counted(write, content, said):
    directory = write(status=status(state="finished"))
    (directory / "metrics.jsonl").write_bytes(content)
    standing = read_standing(str(directory), NOW)
    assert [line for line in text(told(standing, NOW)).splitlines() if "metrics.jsonl" in line] == [said] * bool(said)
    lines = standing.to_json()["metrics_lines"]
    assert (bool(lines["unreadable"]), lines["half"]) == ("unreadable" in said, "half" in said)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (json.dumps([record()])[:40], "evaluation.json cannot be read: it is half-written, or no JSON: "),
        ("", "evaluation.json cannot be read: it is half-written, or no JSON: "),
        ("{}", "evaluation.json cannot be read: it is no list of records"),
        (json.dumps([record(), 7]), "evaluation.json: 1 of its 2 entries are no records"),
        (json.dumps([record()]), ""),
    ],
)
def test_what_is_not_read_of_an_evaluation_is_said(write, content, said):
    for files in ({"config": None}, {"status": status(state="finished")}):
        standing = read_standing(str(write(evaluation=content, **files)), NOW)
        lines = [line for line in text(told(standing, NOW)).splitlines() if line.startswith("evaluation.json")]
        assert len(lines) == bool(said) and all(line.startswith(said) for line in lines)
        assert (standing.to_json()["evaluations_unread"] or "") == "".join(lines)


def test_an_evaluation_that_is_no_regular_file_is_not_waited_for(write):
    os.mkfifo(write(status=status(state="finished")) / "evaluation.json")
    unread = read_standing(str(write()), NOW).unread
    assert unread is not None and unread.endswith("evaluation.json is no regular file")


def test_a_directory_that_holds_nothing_yet_says_so(tmp_path):
    (tmp_path / "trajectories").mkdir()
    assert read_standing(str(tmp_path), time.time()).why.startswith("nothing recorded yet, the newest file")


@pytest.mark.parametrize("run", ["", "nowhere", "."])
def test_where_there_is_no_run_one_line_says_what_to_write(tmp_path, monkeypatch, run):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"run=.*write the directory"):
        reading.status([f"run={run}"])


@pytest.mark.parametrize(
    ("changes", "code"), [({"written": 0.0}, 1), ({"state": "finished"}, 0), ({"state": "failed", "line": "x"}, 1)]
)
def test_the_exit_status_tells_a_program_as_much(write, capsys, changes, code):
    directory = write(status=status(**changes))
    assert reading.status([f"run={directory}"]) == code
    assert capsys.readouterr().out.splitlines()[-1].startswith("next: .venv/bin/toolwise ")
    assert reading.status([f"run={directory}", "format=json"]) == code
    assert json.loads(capsys.readouterr().out)["status"]["policy_version"] == 277


def test_a_report_of_another_form_is_one_line(write):
    with pytest.raises(UsageError, match=r"status.json or evaluation.json in .* is not as .* format=json shows"):
        reading.status([f"run={write(status=status(workers=[1]))}"])


DEEP = "[" * 20_000


@pytest.mark.parametrize(
    "files",
    [
        {"config.yaml": "rl: 3\nstages: 7\n"},
        {"config.yaml": "rl: {steps: x}\nstages: [[1]]\n", "progress.json": "[1]"},
        {"config.yaml": "rl: {}\n", "progress.json": DEEP, "evaluation.json": DEEP, "status.json": DEEP},
        {"config.yaml": "rl: {steps: 2}\n", "metrics.jsonl": f"{DEEP}\n" + '{"stage": ["rl"], "step": 1, "global_step": 1}\n'},
        {"config.yaml": "rl: {steps: 2}\n", "metrics.jsonl": '{"stage": "rl", "step": 1' + "0" * 400 + ', "global_step": 1}\n'},
        {"config.yaml": "rl: {}\n", "status.json": json.dumps(status(written=1e300, began=1e300))},
    ],
    ids=range(6),
)
def test_files_of_another_form_are_left_out(tmp_path, capsys, files):
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    assert reading.status([f"run={tmp_path}"]) in (0, 1)
    assert capsys.readouterr().out.splitlines()[-1].startswith("next: ")


def test_following_asks_for_a_terminal(write):
    with pytest.raises(UsageError, match="terminal"):
        reading.status([f"run={write(status=status())}", "follow=true"])


def test_nothing_heavy_is_waited_for(write):
    heavy = ("ray", "torch", "verl", "transformers", "wandb")
    code = f"import reading, sys; reading.status(sys.argv[1:]); print([name for name in {heavy} if name in sys.modules])"
    arguments = [sys.executable, "-c", code, f"run={write(status=status())}"]
    result = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert result.stdout.splitlines()[-1] == "[]", result.stderr


def test_the_page_has_one_height_through_a_step_and_no_line_is_wider_than_its_window():
    step = [
        status(doing=None, episodes=None),
        status(stage=None),
        status(doing={"what": "learn", "began": NOW}, episodes=None),
        status(stage=status()["stage"] | {"step": None, "seconds_left": None}),
    ]
    assert len({len(page(one, NOW)) for one in step}) == 1
    for width in (10, 40, 200):
        assert max(line.cell_len for line in page(status(), NOW, Look(width))) <= min(width, WIDTH)


def test_what_a_terminal_would_obey_is_shown_as_text():
    bad = "\x1b[2J\u202eevil\x07\r\n[red]"
    changes = {"errors": [{"time": NOW, "kind": bad, "reason": bad, "times": 1}], "alarms": [{"time": NOW, "text": bad}]}
    shown = text(page(status(**changes, doing={"what": bad, "began": NOW}, timing_s={bad: 1.0}), NOW))
    assert not re.search(r"[\x1b\u202e\x07\r]", shown)
    assert shown.count("evil") == 4 and "[red]" in shown


def test_a_window_without_unicode_gets_ascii():
    drawn = page(status(alarms=[], errors=[]), NOW, Look(ascii_only=True))
    curves = [line.plain for line in drawn if line.plain.startswith(("RL", "reward", "calls"))]
    assert len(curves) == 3 and all(line.isascii() for line in curves)


@pytest.mark.parametrize(
    ("values", "width", "drawn"),
    [
        ([], 4, ""),
        ([float("nan")], 4, ""),
        ([1.0], 4, "▄"),
        ([2.0, 2.0, 2.0], 4, "▄▄▄"),
        ([0.0, 1.0], 4, "▁█"),
        ([0.0, 0.0, 7.0, 7.0], 2, "▁█"),
        (range(8), 8, "▁▂▃▄▅▆▇█"),
        (range(800), 8, "▁▂▃▄▅▆▇█"),
    ],
)
def test_a_sparkline_goes_from_the_lowest_value_to_the_highest(values, width, drawn):
    assert sparkline(list(values), width) == drawn


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.04, "40 ms"), (2.34, "2.3 s"), (59.7, "1 min"), (61, "1 min 1 s"), (3600, "1 h"), (3661, "1 h 1 min"), (90000, "1 d 1 h")],
)
def test_a_length_of_time_has_two_units(seconds, said):
    assert duration(seconds) == said


def test_small_figures():
    assert (elapsed(0.7), elapsed(-3), elapsed(12.9)) == ("0 s", "0 s", "12 s")
    assert (bar(0.5, 4, "#", "."), bar(7, 2, "#", "."), bar(-1, 2, "#", ".")) == ("##..", "##", "..")
    assert re.fullmatch(r"\d\d:\d\d:\d\d", clock(time.time()))
    assert clock(0).startswith(("1970-01-01", "1969-12-31"))


def test_what_is_said_stands_above_the_view(monkeypatch):
    """And colours are left out where NO_COLOR asks for it."""
    monkeypatch.setenv("NO_COLOR", "1")
    out = io.StringIO()
    terminal = Console(file=out, force_terminal=True, width=100, soft_wrap=True, highlight=False, color_system="truecolor")
    monkeypatch.setattr(console, "console", terminal)
    with console.live(status):
        console.say("base: measured")
    shown = out.getvalue()
    assert shown.index("base: measured") < shown.rindex("RL")
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]", shown)
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h") == 1


def test_a_view_that_fails_says_so_and_ends_nothing(monkeypatch):
    out = io.StringIO()
    monkeypatch.setattr(console, "console", Console(file=out, force_terminal=True, width=100))
    with console.live(lambda: status(workers={"wanted": 1})):
        pass
    assert "the view failed: KeyError" in out.getvalue()


@pytest.mark.parametrize(("term", "draws"), [("xterm-256color", True), ("dumb", False)])
def test_on_a_real_terminal_ctrl_c_leaves_it_as_it_was(term, draws):
    """The view is drawn over on a pseudo-terminal that is made narrower amid it; a dumb one gets no view."""
    code = (
        # A process that is started in the background ignores Ctrl-C. A Ctrl-C just before a sleep begins is heard when it ends.
        "import console, signal, time, sys\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "if not console.can_draw(): print('plain'); sys.exit(130)\n"
        f"status = {status()!r}\n"
        "try:\n  with console.live(lambda: status):\n    print('begun', flush=True)\n    for _ in range(600): time.sleep(0.1)\n"
        "except KeyboardInterrupt:\n  print('ended')\n  sys.exit(130)"
    )
    terminal, child = pty.openpty()
    resize(terminal, 24, 100)
    before = termios.tcgetattr(terminal)
    environment = {**os.environ, "TERM": term, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=child, stdout=child, stderr=child, env=environment, start_new_session=True
    )
    os.close(child)
    shown = b""
    if draws:
        while b"RL" not in shown:
            shown += os.read(terminal, 4096)
        resize(terminal, 24, 50)
        process.send_signal(signal.SIGINT)
    while chunk := read(terminal):
        shown += chunk
    assert process.wait(60) == 130
    assert (b"plain" in shown) != draws
    assert (shown.rfind(b"\x1b[?25h") >= shown.rfind(b"\x1b[?25l")) and termios.tcgetattr(terminal)[3] == before[3]
    if draws:
        assert shown.index(b"begun") < shown.rindex(b"ended")
    os.close(terminal)


def resize(terminal, rows, columns):
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def read(terminal):
    try:
        return os.read(terminal, 4096)
    except OSError:  # nobody has it open any more
        return b""
