"""The alarm is judged on recorded runs: losses that rang in time, late or not at all, false alarms; what was rolled back counts."""

import json

import pytest

from benchmarks.alarm import judge, main

KEEPS = [0.9] * 30
LOSES = [0.9] * 5 + [0.9 - 0.04 * step for step in range(1, 21)] + [0.05] * 15


def record(directory, uses, *, gain=0.0, advantage=-0.1, undone=(), tools=("code",)):
    """A run of RL with these shares of episodes with a call, all on tasks that need one."""
    directory.mkdir()

    def line(step, use):
        facts = {"tools/use": use, "by_need/needed/tool_use": use, "tools/gain": gain, "tools/gain_episodes": 40}
        return {
            "stage": "rl",
            "step": step,
            "global_step": step,
            **facts,
            "reward/tool_advantage": advantage,
            "reward/accuracy": 0.5,
            **{f"tools/{tool}/frequency": use for tool in tools},
        }

    (directory / "metrics.jsonl").write_text("".join(json.dumps(line(*pair)) + "\n" for pair in enumerate(uses)))
    if undone:
        begins, values = undone
        lines = [{"rollback": 1, **line(begins + number, value)} for number, value in enumerate(values)]
        (directory / "rolled_back.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    return directory


@pytest.mark.parametrize(
    ("uses", "facts", "verdict", "early"),
    [
        (KEEPS, {}, "silent", None),
        (LOSES, {"gain": 0.02}, "in time", True),
        (LOSES, {"gain": 0.5, "advantage": 0.3}, "late", False),
        (LOSES, {"gain": 0.5}, "missed", None),
        ([0.9] * 5 + [0.7] * 25, {"gain": 0.02}, "false alarm", None),
        ([0.0] * 20, {}, "late", False),
        ([0.0] * 20, {"tools": ()}, "silent", None),
    ],
    ids=["kept", "unpaid", "given up", "unseen", "kept at a lower level", "never called", "without tools"],
)
def test_a_run_is_judged(tmp_path, uses, facts, verdict, early):
    judged = judge(record(tmp_path / "run", uses, **facts))
    assert judged.verdict == verdict
    assert (judged.delay is not None and judged.delay <= 0) == bool(early)


def test_a_run_that_was_saved_by_a_rollback_is_judged_by_what_was_undone(tmp_path):
    run = record(tmp_path / "run", KEEPS, gain=0.02, undone=(5, LOSES[5:]))
    assert judge(run).verdict == "in time"


def test_a_last_line_that_a_kill_cut_short_is_left_out(tmp_path):
    run = record(tmp_path / "run", KEEPS)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "rl", "st')
    assert judge(run).steps == len(KEEPS)


def test_the_table_counts_and_what_is_no_run_is_one_line(tmp_path, capsys):
    runs = [record(tmp_path / "kept", KEEPS), record(tmp_path / "lost", LOSES)]
    assert main([*map(str, runs), "--json", str(tmp_path / "out.json")]) == 0
    shown = capsys.readouterr().out
    assert "1 of 1 losses rang in time; 0 of 1 other runs had a false alarm." in shown
    assert "lost, step" in shown
    assert [row["verdict"] for row in json.loads((tmp_path / "out.json").read_text())] == ["silent", "in time"]
    assert main([str(tmp_path)]) == 2
    assert "there is no metrics.jsonl" in capsys.readouterr().err
