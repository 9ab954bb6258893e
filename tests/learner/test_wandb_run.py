"""W&B gets records, histograms, an alert, and tables of episodes with their pictures; a server that never answers costs a run no
more than a line."""

import json
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import wandb
from PIL import Image

from envs.errors import UsageError
from learner.experiment import TrackingConfig
from learner.run_files.episode_table import COLUMNS, episode_rows
from learner.run_files.tracking import Tracker
from learner.run_files.wandb_run import WandbRun
from rollout.store import Store
from rollout.summary import EpisodeSummary
from rollout.types import Episode, ToolCallRecord, Turn


def stored(directory, make_episode, picture, groups=3, size=6):
    """Groups of episodes in `rl_000000`, one with a tool call, each with a picture."""
    turns = [
        Turn(action="<code>1 + 1</code>", observation="2", tool_calls=[ToolCallRecord("code", "ok", 0.2)]),
        Turn(action="<answer>2</answer>"),
    ]
    episodes = []
    for number in range(groups * size):
        made = make_episode([picture(0)], seed=number, group=f"g{number // size}", reward=number / 20)
        chain = replace(made.chains[0], episode_id=f"e{number}", turns=turns, answer="2")
        episodes.append(Episode((chain,), made.images))
    Store(directory).write("rl_000000", episodes)
    return [EpisodeSummary.of(episode) for episode in episodes]


def test_a_table_has_some_episodes_of_several_groups(tmp_path, make_episode, picture):
    stored(tmp_path, make_episode, picture)
    columns, rows = episode_rows(tmp_path, "rl_000000", 7, most=6, question=lambda episode: "Q")
    assert (tuple(columns), len(rows)) == (COLUMNS, 6)
    shown = dict(zip(columns, rows[-1], strict=True))
    assert [row[columns.index("reward")] for row in rows] == [0.0, 0.05, 0.1, 0.15, 0.3, 0.35]  # four of the first group
    assert (shown["step"], shown["question"], shown["answer"], shown["tool_status"]) == (7, "Q", "2", "code ok")
    assert shown["turns"] == "[1] <code>1 + 1</code>\n-> 2\n\n[2] <answer>2</answer>"
    assert isinstance(shown["image_1"], Image.Image)
    assert shown["image_2"] is None


def test_a_table_has_the_rewards_that_are_learned_from_and_says_what_it_cuts(tmp_path, make_episode, picture):
    stored(tmp_path, make_episode, picture)
    columns, (row,) = episode_rows(
        tmp_path, "rl_000000", 0, most=1, question=lambda episode: "Q" * 9000, scores={"e0": (0.7, {"accuracy": 1, "cost": 0.5})}
    )
    shown = dict(zip(columns, row, strict=True))
    assert (shown["reward"], shown["reward_parts"]) == (0.7, "accuracy 1, cost 0.5")
    assert shown["question"] == "Q" * 8000 + "… (1,000 more characters)"


def test_variables_of_wandb_count_where_nothing_is_set(tmp_path, monkeypatch):
    opened = []

    class Seen(WandbRun):
        def _open(self):
            opened.append(super()._open())
            return opened[-1]

    for name, value in {
        "MODE": "offline",
        "API_KEY": "a" * 40,
        "PROJECT": "theirs",
        "NAME": "night",
        "ENTITY": "lab",
        "TAGS": "x,y",
    }.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    wandb.teardown()  # a process reads them once, and another test may have been the first
    Seen(tmp_path, TrackingConfig(), {}, "some3").finish()
    (run,) = opened
    assert (run.project, run.name, run.entity, run.tags, run.offline) == ("theirs", "night", "lab", ("x", "y"), True)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    Tracker(tmp_path / "off", TrackingConfig(), {}, "some4").finish()
    assert not (tmp_path / "off").exists()
    monkeypatch.setenv("WANDB_MODE", "dryrun")
    with pytest.raises(UsageError, match="WANDB_MODE=dryrun is none of online"):
        TrackingConfig().check()


def test_a_server_that_never_answers_costs_a_line_and_the_run_is_kept_offline(
    tmp_path, make_episode, picture, policy_dir, monkeypatch
):
    """The server accepts connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
        said = []
        config = TrackingConfig(init_s=0.2, table_every=2, table_episodes=3)
        tracker = Tracker(tmp_path, config, {"seed": 0}, "some1", policy_dir=policy_dir, say=said.append)
        episodes = stored(tmp_path, make_episode, picture)
        for step in range(2):
            tracker.log("rl", step, step, {"x": 1.5}, episodes=episodes, stored_as="rl_000000")
        tracker.alert("Tool use is collapsing", "step 1")
        (tmp_path / "report.html").write_text("<p>all of it</p>")
        tracker.attach(tmp_path / "report.html")
        tracker.finish()
    assert [line.partition(" (")[0] for line in said] == ["W&B did not take the run"]
    assert "does not answer" in said[0]
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2
    (run,) = (tmp_path / "wandb").glob("offline-run-*-some1")
    (table,) = run.glob("files/media/table/*.table.json")  # of step 0 alone
    rows = json.loads(table.read_text())
    assert (len(rows["data"]), rows["columns"]) == (3, list(COLUMNS))
    (page,) = run.glob("files/media/html/report_*.html")
    assert page.read_text() == "<p>all of it</p>"
    assert list((tmp_path / "wandb/artifacts/staging").iterdir())  # the pictures, until they are sent
    inspect = [Path(sys.executable).with_name("wandb"), "leet", "inspect", "--json", str(next(run.glob("*.wandb")))]
    records = [json.loads(line) for line in subprocess.run(inspect, capture_output=True, text=True, check=True).stdout.splitlines()]
    first, second, third = [record["history"]["item"] for record in records if "history" in record]
    assert "report" in {name.split(".")[0] for name in third}
    assert {"histograms/calls_per_episode", "histograms/reward", "episodes"} <= {name.split(".")[0] for name in first}
    assert not any("histograms" in name for name in second)
    assert (second["x"], second["step"]) == (1.5, 1)
    assert "Tool use is collapsing" in [record["alert"]["title"] for record in records if "alert" in record]


def notes(run):
    return [run.notes.get() for _ in range(run.notes.qsize())]


def test_runs_of_one_process_are_kept_apart_and_records_that_are_not_taken_are_counted(tmp_path):
    runs = [WandbRun(tmp_path / name, TrackingConfig(mode="offline"), {}, name) for name in ("one", "two")]
    for run in runs:
        run.log({"global_step": 0, "step": 0, "x": 1.0}, {})
        for _ in range(3):
            run.log("no record", {})
    for run in runs:
        run.finish()
        said = notes(run)
        assert ["a record was not taken: TypeError" in said[0], said[1:]] == [
            True,
            ["W&B: 3 records were dropped since it did not take them; metrics.jsonl has all of them"],
        ]
    for name in ("one", "two"):
        assert len(list((tmp_path / name / "wandb").glob(f"offline-run-*-{name}"))) == 1


def test_records_after_wandb_has_failed_are_counted_and_not_kept(tmp_path):
    run = WandbRun(tmp_path, TrackingConfig(mode="offline", finish_s=5.0), {}, "no/id")
    run._thread.join(30)
    for step in range(2000):
        run.log({"global_step": step}, {})
    run.finish()
    off, lost = notes(run)
    assert off.startswith("W&B is off: ")
    assert lost.startswith("W&B: 2000 records were dropped")
    assert run._queue.empty()
