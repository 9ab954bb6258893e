"""What the routes answer: runs, curves, groups, episodes with their tokens and what the learner made of them, items across names.
Hostile and half-written files are shown as far as they go, and never a 500. The command serves until it is told to end."""

import json
import os
import shutil
import signal
import subprocess
import time
import urllib.request
from dataclasses import replace

import numpy as np
import pytest
from command_line import ROOT, TOOLWISE
from shown import PIXEL, group
from trajectories import CODE, trajectory

from envs.errors import UsageError
from envs.runtime.processes import pid_space, process_began
from evaluation.pages.history import read_history
from reading import view
from rollout.learned import Learned, LearnedFiles
from rollout.types import StopReason, Turn
from viewer.episode.advantage import advantage_of
from viewer.episode.tokens import TokenText
from viewer.runs import find_runs
from viewer.serve import listening

SHA = "a" * 64


def test_a_run_is_described(write_run, show):
    run_directory = write_run("demo", rl_000000=group("a", [1]))
    (run_directory / "metrics.jsonl").write_text('{"stage": "rl", "step": 0, "x": 1}\n{"stage": "rl", "step": 1, "x": 2}\n')
    (run_directory / "evaluation.json").write_text('[{"label": "base"}]')
    shown = show(run_directory)
    shown.settled()
    (entry,) = shown.get("runs")["runs"]
    assert (entry["id"], entry["stage"], entry["step"], entry["steps_planned"]) == ("demo", "rl", 1, 2)
    assert (entry["labels"], entry["live"], entry["indexed"]["episodes"]) == (["base"], True, 1)


def test_a_directory_of_runs_shows_them_all_and_those_that_begin_later(write_run, show, tmp_path):
    write_run("one", rl_000000=group("a", [1]))
    write_run("one/one", episodes=group("b", [1]))
    shown = show(tmp_path / "runs")
    assert [entry["id"] for entry in shown.get("runs")["runs"]] == ["one", "one-2"]
    write_run("two", rl_000000=group("a", [1]))
    assert [entry["id"] for entry in shown.get("runs")["runs"]] == ["one", "one-2", "two"]


@pytest.mark.parametrize("steps", [".nan", ".inf", "2024-01-01", "[1]"])
def test_a_run_with_a_setting_that_json_cannot_hold_is_listed(write_run, show, tmp_path, steps):
    write_run("one", rl_000000=group("a", [1]))
    (write_run("two", rl_000000=[]) / "config.yaml").write_text(
        f"rl: {{steps: {steps}}}\noptions: {{reward: {{accuracy: .nan, at: 2024-01-01}}}}\n"
    )
    runs = show(tmp_path / "runs").get("runs")["runs"]
    assert [(run["id"], run["steps_planned"]) for run in runs] == [("one", 2), ("two", None)]


def test_an_answer_that_json_cannot_hold_is_an_error_in_json(write_run, show, monkeypatch):
    shown = show(write_run("demo", rl_000000=[]))
    monkeypatch.setattr(shown.viewer.runs["demo"].metrics, "answer", lambda names: {"names": [], "stages": {}, "x": float("nan")})
    status, error = shown.refused("runs/demo/metrics")
    assert status == 500 and error.startswith("ValueError")


def test_metrics_are_columns_and_follow_the_file(write_run, show):
    run_directory = write_run("demo")
    file = run_directory / "metrics.jsonl"
    file.write_text('{"stage": "rl", "step": 0, "a": 1, "b": NaN}\n{"stage": "rl", "step": 1, "c": 1e999}\nbroken\n{"stage": "rl"')
    shown = show(run_directory)
    answer = shown.get("runs/demo/metrics")
    assert answer["names"] == ["a", "b", "c"]
    assert answer["stages"]["rl"] == {"steps": [0, 1], "series": {"a": [1, None], "b": [None, None], "c": [None, None]}}
    assert (answer["unreadable"], answer["half"]) == (1, True)
    assert (read_history(run_directory).broken, len(read_history(run_directory).rl)) == (2, 2)
    with file.open("a") as opened:
        opened.write(', "step": 1, "a": 5}\n')
    assert shown.get("runs/demo/metrics", names="a")["stages"]["rl"] == {"steps": [0, 1], "series": {"a": [1, 5]}}
    file.unlink()
    assert shown.get("runs/demo/metrics") == {
        "names": [],
        "stages": {},
        "unreadable": 0,
        "half": False,
        "derived": [],
    }


def test_parts_that_compare_a_group_are_in_a_calculated_advantage():
    rows = [
        {"episode_id": str(number), "reward": 1.0, "reward_parts": {"accuracy": 1.0}, "correct": True, "calls": number, "turns": 1}
        for number in range(2)
    ]
    for setting, expected in (
        (["accuracy"], (0.0, "group")),
        (["accuracy", {"cost": 0.5}], (pytest.approx(0.7071, abs=1e-3), "group")),
        (["accuracy", "mine:compared"], (None, "unknown part")),
        (["accuracy", {"mine": "compared: 0.5"}], (None, "unknown part")),
        ("mine:whole", (0.0, "group")),
    ):
        assert advantage_of(rows[0], {}, rows, setting) == expected


def test_an_episode_that_was_not_learned_from_has_no_advantage_and_is_in_no_mean(write_run, show):
    """A record says null of the first group's second episode; of the second group nothing is recorded."""
    *others, cut, unplayed = group("b", [1, 1, 0, 0, 0])
    cut = replace(cut, cut="turn_s", stop_reason=StopReason.TIME_LIMIT)
    unplayed = replace(unplayed, error="the picture is broken", stop_reason=StopReason.ABORTED)
    directory = write_run("demo", rl_000000=[*group("a", [1, 0]), *others, cut, unplayed])
    recorded = [("a", Learned(f"a-{number}", 0, advantage)) for number, advantage in enumerate((1.5, None))]
    LearnedFiles.of(directory, "rl_000000", {"a": "rl_000000"}).write(recorded)
    shown = show(directory)
    shown.settled()
    answers = [shown.get(f"runs/demo/groups/{name}")["episodes"] for name in "ab"]
    told = [[(one["advantage"], one["advantage_source"]) for one in episodes] for episodes in answers]
    high, low = (pytest.approx(value, abs=1e-3) for value in (0.577, -1.155))
    assert told[0] == [(1.5, "recorded"), (None, "not learned from")]
    assert told[1] == [*[(high, "group")] * 2, (low, "group"), *[(None, "not learned from")] * 2]


def test_a_run_that_is_removed_leaves_the_list(write_run, show, tmp_path):
    write_run("kept", rl_000000=group("a", [1]))
    gone = write_run("gone", rl_000000=group("b", [1]))
    shown = show(tmp_path / "runs")
    assert len(shown.get("runs")["runs"]) == 2
    shutil.rmtree(gone)
    assert [entry["id"] for entry in shown.get("runs")["runs"]] == ["kept"]


def test_what_is_no_regular_file_is_not_waited_for(write_run, show):
    run_directory = write_run("demo")
    for name in ("metrics.jsonl", "evaluation.json", "config.yaml", "status.json"):
        (run_directory / name).unlink(missing_ok=True)
        os.mkfifo(run_directory / name)
    shown = show(run_directory)
    assert shown.get("runs/demo/metrics")["names"] == shown.get("runs/demo/evaluation")["records"] == []
    assert [entry["stage"] for entry in shown.get("runs")["runs"]] == [None]
    assert read_history(run_directory).broken == 0


def test_an_evaluation_has_its_referee_and_a_half_written_one_is_said(write_run, show):
    run_directory = write_run("demo", episodes=[])
    shown = show(run_directory)
    (run_directory / "evaluation.json").write_text('[{"label": "a"}, {"label": "b", "referee": {"x": NaN}}]')
    answer = shown.get("runs/demo/evaluation")
    assert (len(answer["records"]), answer["referee"], answer["unreadable"]) == (2, {"x": None}, False)
    (run_directory / "evaluation.json").write_text('[{"label": "a"')
    answer = shown.get("runs/demo/evaluation")
    assert (answer["records"], answer["referee"], answer["unreadable"]) == ([], None, True)


def test_names_are_in_order_with_stage_step_and_variant(write_run, show):
    names = ("without_code", "rl_000010", "rl_000009", "demonstrations", "episodes")
    shown = show(write_run("demo", **{name: group(name, [0, 1]) for name in names}))
    shown.settled()
    parts = ("name", "stage", "step", "variant", "episodes")
    found = [tuple(one[part] for part in parts) for one in shown.get("runs/demo/names")["names"]]
    assert found == [
        ("demonstrations", "cold_start", None, None, 2),
        ("rl_000009", "rl", 9, None, 2),
        ("rl_000010", "rl", 10, None, 2),
        ("episodes", "evaluation", None, None, 2),
        ("without_code", "evaluation", None, "without code", 2),
    ]


def test_a_group_stands_side_by_side_with_its_advantages(write_run, show):
    shown = show(write_run("demo", rl_000000=group("a", [0, 1, 1, 0]), rl_000001=group("a/b?c", [1])))
    shown.settled()
    answer = shown.get("runs/demo/groups/a", name="rl_000000")
    assert [episode["reward"] for episode in answer["episodes"]] == [0, 1, 1, 0]
    assert [round(episode["advantage"], 3) for episode in answer["episodes"]] == [-0.866, 0.866, 0.866, -0.866]  # as verl: n - 1
    assert {episode["advantage_source"] for episode in answer["episodes"]} == {"group"}
    assert answer["episodes"][1]["turns"][0]["tool_calls"] == [{"tool": "code", "status": "ok", "latency_s": 1}]
    assert shown.get("runs/demo/groups/a%2Fb%3Fc")["episodes"][0]["advantage"] is None


def test_the_images_of_the_question_are_those_before_the_turns(write_run, show):
    turn = Turn(action="look", images=[SHA])
    one = trajectory(turns=[turn], images=["b" * 64, SHA], token_ids=[7, 7], loss_mask=[0, 1], logprobs=[0, -1], versions=[-1, 0])
    shown = show(write_run("demo", episodes=[one]))
    shown.settled()
    episode = shown.get("runs/demo/episodes/g-0")
    assert (episode["question"]["images"], episode["turns"][0]["images"]) == (["b" * 64], [SHA])


def test_tokens_have_what_the_learner_recorded(write_run, show):
    run_directory = write_run("demo", rl_000000=group("a", [0, 1, 1]))
    files = LearnedFiles.of(run_directory, "rl_000000", {"a": "rl_000000"}).with_others([("a", Learned("a-0", 0, None))])
    lists = (np.array([1, 2], np.float32), np.array([-0.5, -0.25], np.float32))
    files.write([("a", Learned("a-1", 0, 0.25, *lists))], 0, 2)
    files.write([("a", Learned("a-2", 0, -0.5, None, lists[1]))], 1, 2)
    shown = show(run_directory)
    shown.settled()
    episode = shown.get("runs/demo/episodes/a-1", tokens=1)
    assert (episode["advantage"], episode["advantage_source"]) == (0.25, "recorded")
    (chain,) = episode["tokens"]
    assert chain["learner_logprobs"] == [None, -0.5, None, -0.25]
    assert chain["advantages"] == [None, 1, None, 2]
    assert chain["mask"] == [0, 1, 0, 1]
    second = shown.get("runs/demo/episodes/a-2", tokens=1)
    assert (second["advantage"], second["tokens"][0]["learner_logprobs"]) == (-0.5, [None, -0.5, None, -0.25])
    assert second["tokens"][0]["advantages"] is None
    other = shown.get("runs/demo/episodes/a-0", tokens=1)
    assert (other["advantage_source"], other["tokens"][0]["learner_logprobs"]) == ("not learned from", None)
    (run_directory / "learned" / "rl_000000.w00000000.parquet").write_bytes(b"half")
    broken = shown.get("runs/demo/episodes/a-1", tokens=1)
    assert broken["advantage_source"] == "group"
    assert any(problem.startswith("learned/rl_000000.w00000000.parquet cannot be read") for problem in broken["problems"])


def test_an_item_is_found_across_names_and_runs_share_items(write_run, show):
    first = write_run("demo", rl_000003=group("a", [1]), episodes=group("a", [0]), blank=group("a", [1]))
    second = write_run("other", episodes=group("a", [0]), blank=group("b", [1]))
    shown = show(first, second)
    shown.settled(), shown.settled("other")
    item = shown.get("runs/demo/items/task-a")
    assert [(row["name"], row["step"], row["variant"]) for row in item["episodes"]] == [
        ("rl_000003", 3, None),
        ("episodes", None, None),
        ("blank", None, "blank"),
    ]
    assert item["effects"] == {"blank": "harmed"}


def test_two_runs_are_compared_by_the_tasks_they_share(write_run, show):
    tasks = {"up": ([0, 0], [1, 0]), "down": ([1, 1], [0, 0]), "same": ([0, 1], [1, 0])}
    sides = [[one for name, calls in tasks.items() for one in group(name, calls[side])] for side in (0, 1)]
    first = write_run("demo", rl_000003=group("up", [1, 1]), episodes=sides[0], blank=group("up", [1]))
    shown = show(first, write_run("other", episodes=sides[1] + group("alone", [1])))
    shown.settled(), shown.settled("other")
    answer = shown.get("compare", a="demo", b="other")
    parts = ("total", "judged", "better", "worse", "equal", "names")
    assert [answer[part] for part in parts] == [3, 3, 1, 1, 1, ["episodes"]]
    assert (answer["a"]["accuracy"], answer["b"]["calls"]) == (0.5, 1 / 3)
    assert [(row["task_id"], row["difference"]) for row in answer["tasks"]] == [
        ("task-down", -1),
        ("task-up", 0.5),
        ("task-same", 0),
    ]
    assert answer["tasks"][1]["a"] == {"name": "episodes", "group_id": "up", "episodes": 2, "accuracy": 0, "calls": 0}
    for sort, place in (("difference", 0), ("-difference", 2)):
        assert shown.get("compare", a="demo", b="other", sort=sort)["tasks"][place]["task_id"] == "task-down"
    page = shown.get("compare", a="demo", b="other", offset=1, limit=1)
    assert (page["total"], [row["task_id"] for row in page["tasks"]]) == (3, ["task-up"])
    steps = shown.get("compare", a="demo", b="demo", name_a="rl_000003", name_b="episodes")
    assert [(row["task_id"], row["difference"], row["a"]["name"]) for row in steps["tasks"]] == [("task-up", -1, "rl_000003")]
    assert shown.get("compare", a="demo", b="other", name_b="none")["total"] == 0
    for bad in ({"sort": "x"}, {"limit": 0}):
        assert shown.refused("compare", a="demo", b="other", **bad)[0] == 400


def test_names_have_averages_and_steps_the_use_by_need_that_the_run_did_not_record(write_run, show):
    needed = {"needed_tools": ["code"]}
    steps = {f"rl_00000{step}": group("a", [step, 1], **needed) + group("b", [0, 0, 0, 1], needed_tools=[]) for step in (0, 1)}
    failed = trajectory([CODE], "a", 9, stop_reason="INFRASTRUCTURE", reward=0.0, **needed)
    steps["rl_000001"].append(failed)
    steps["rl_000001_1"] = group("c", [0, 0], **needed)  # another draw of that step
    run_directory = write_run("demo", **steps)
    shown = show(run_directory)
    shown.settled()
    names = [(one["episodes"], one["accuracy"], one["calls"]) for one in shown.get("runs/demo/names")["names"]]
    assert names == [(6, 2 / 6, 2 / 6), (7, 3 / 6, 3 / 6), (2, 0, 0)]
    expected = {"by_need/needed/tool_use": [0.5, 0.5], "by_need/not_needed/tool_use": [0.25, 0.25]}
    answer = shown.get("runs/demo/metrics")
    assert {name: answer["stages"]["rl"]["series"][name] for name in expected} == expected
    assert len(answer["derived"]) == 4
    lines = [{"stage": "rl", "step": step, "by_need/needed/tool_use": 0.7} for step in (1, 2)]
    (run_directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    answer = shown.get("runs/demo/metrics", names="by_need/needed/tool_use,by_need/not_needed/tool_use")
    assert answer["derived"] == ["by_need/not_needed/tool_use"]
    assert answer["stages"]["rl"]["series"] == {"by_need/needed/tool_use": [0.7, 0.7], "by_need/not_needed/tool_use": [0.25, None]}


def test_tasks_are_chosen_by_what_a_tool_does_to_them(write_run, show):
    outcomes = {"gained": (1, 0), "harmed": (0, 1), "either way": (1, 1), "never": (0, 0)}
    names = {
        name: [one for task, of in outcomes.items() for one in group(task, [of[side]])]
        for side, name in enumerate(("episodes", "blank"))
    }
    shown = show(write_run("demo", **names))
    shown.settled()
    assert shown.get("runs/demo/facets", name="episodes")["effects"] == {"blank": dict.fromkeys(outcomes, 1)}
    for effect in outcomes:
        answer = shown.get("runs/demo/tasks", name="episodes", effect=f"blank:{effect}")
        assert [row["task_id"] for row in answer["rows"]] == [f"task-{effect}"]
    assert shown.refused("runs/demo/tasks", effect="blank:odd")[0] == 400


def test_what_the_status_file_says_of_a_run_comes_before_the_age_of_its_files(write_run, show):
    run_directory = write_run("demo", rl_000000=group("a", [1]))
    here = {"host": "here", "pid": os.getpid(), "pid_began": process_began(os.getpid()), "pid_space": pid_space(), "line": None}
    told = here | {"began": time.time(), "written": time.time(), "advanced": time.time()}
    shown = show(run_directory)
    told_by = []
    for changes in ({"state": "running"}, {"state": "running", "pid_began": -1}, {"state": "finished"}, {"state": "failed"}):
        (run_directory / "status.json").write_text(json.dumps(told | changes))
        (entry,) = shown.get("runs")["runs"]
        told_by.append((entry["state"], entry["live"], entry["finished"]))
    assert told_by == [("running", True, False), ("dead", False, False), ("finished", False, True), ("failed", False, False)]


def test_changes_say_which_part(write_run, show):
    run_directory = write_run("demo", rl_000000=group("a", [1]))
    shown = show(run_directory)
    shown.settled()
    version = shown.get("runs/demo/changes")["version"]
    assert shown.get("runs/demo/changes", since=version) == {"version": version, "changed": []}
    (run_directory / "metrics.jsonl").write_text("{}\n")
    assert shown.get("runs/demo/changes", since=version)["changed"] == ["metrics"]
    assert shown.get("runs/demo/changes", since="x.y-z")["changed"] == ["metrics", "names", "evaluation", "index"]


def test_images_are_png_files_and_nothing_else(write_run, show, tmp_path):
    run_directory = write_run("demo", episodes=[trajectory(images=[SHA], turns=[Turn(action="x", images=[SHA])])])
    images = run_directory / "trajectories" / "images"
    (tmp_path / "secret").write_bytes(PIXEL)
    (images / f"{'b' * 64}.png").symlink_to(tmp_path / "secret")
    (images / f"{'c' * 64}.png").write_text("<script>")
    os.mkfifo(images / f"{'d' * 64}.png")
    shown = show(run_directory)
    answer = shown.client.get(f"/api/runs/demo/images/{SHA}")
    assert (answer.status_code, answer.headers["content-type"], answer.content) == (200, "image/png", PIXEL)
    assert "immutable" in answer.headers["cache-control"]
    for name in ("b" * 64, "c" * 64, "d" * 64, "e" * 64, "A" * 64, "x", "..%2f..%2fconfig.yaml"):
        assert shown.refused(f"runs/demo/images/{name}")[0] == 404


HOSTILE = {
    "script": {"turns": [{"action": "<script>alert(1)</script>", "observation": "\x1b[31mred \u202e txt"}]},
    "ten megabytes": {"turns": [{"action": "x", "observation": "y" * 10_000_000}]},
    "a surrogate": {"turns": [{"action": "\ud800 half"}], "answer": "\udfff"},
    "wrong types": {"turns": "none", "token_ids": {"a": 1}, "loss_mask": None, "images": [1, None], "reward": "high"},
    "unequal": {"token_ids": [1, 2, 3], "loss_mask": [1], "logprobs": [], "versions": [2**70]},
    "not a number": {"reward": float("nan"), "logprobs": [float("inf")], "reward_parts": {"accuracy": float("-inf")}},
    "a negative token": {"token_ids": [-5, 2**40], "loss_mask": [0, 1], "prompt_length": 1},
    "nested": {"abilities": [["a"], {}], "needed_tools": [3]},
}


@pytest.fixture
def hostile(write_run, append, show):
    run_directory = write_run("demo")
    for name, fields in HOSTILE.items():
        append(run_directory, "rl_000000.jsonl", {"episode_id": name, "group_id": "g", "task_id": "t"} | fields)
    append(run_directory, "rl_000000.jsonl", 'not JSON\n{"episode_id": "half"')
    shown = show(run_directory)
    shown.settled()
    return shown


def test_hostile_records_are_shown_as_text(hostile):
    assert hostile.settled().unreadable == 1
    assert hostile.settled().half == 1
    for route in ("runs", "runs/demo/names", "runs/demo/tasks", "runs/demo/facets", "runs/demo/items/t"):
        hostile.get(route)
    assert hostile.get("runs/demo/episodes")["total"] == len(HOSTILE)
    shown = hostile.get("runs/demo/groups/g", tokens=1)["episodes"]
    assert [episode["episode_id"] for episode in shown] == [*HOSTILE]
    assert all(episode["problems"] for episode in shown)
    assert shown[0]["turns"][0]["action"] == "<script>alert(1)</script>"


def test_a_long_text_is_cut_until_it_is_asked_for_whole(hostile):
    turn = hostile.get("runs/demo/episodes/ten megabytes")["turns"][0]
    assert (len(turn["observation"]), turn["cut"], turn["lengths"]) == (1 << 16, True, {"observation": 10_000_000})
    assert len(hostile.get("runs/demo/episodes/ten megabytes", whole=1)["turns"][0]["observation"]) == 10_000_000
    assert hostile.settled().cut == 1


def test_an_episode_whose_file_is_being_written_anew_is_asked_for_again(write_run, show):
    run_directory = write_run("demo", episodes=group("a", [1]))
    shown = show(run_directory)
    shown.settled()
    shown.viewer.indexer.stop()
    (run_directory / "trajectories" / "episodes.jsonl").write_text(trajectory(group="b").to_json())
    assert shown.refused("runs/demo/episodes/a-0")[0] == 409


@pytest.mark.parametrize("place", ["none", "none/names", "demo/groups/x", "demo/episodes/x", "demo/items/x"])
def test_what_is_not_there_is_404(write_run, show, place):
    shown = show(write_run("demo", episodes=group("a", [1])))
    shown.settled()
    assert shown.refused(f"runs/{place}")[0] == 404


def test_pieces_of_tokens_join_to_the_text():
    text = TokenText(ROOT / "starter" / "microworld" / "tokenizer.json")
    of_byte = {piece: number for number, piece in enumerate(text.pieces(range(256)))}
    assert text.pieces([257, of_byte["H"], 258]) == ["<|im_start|>", "H", "<|im_end|>"]
    ids = text._tokenizer.encode("Grün 图 🙂", add_special_tokens=False).ids
    assert "".join(text.pieces(ids)).strip() == "Grün 图 🙂"
    assert text.pieces([*ids[-4:-2], 258])[-1] == "\ufffd<|im_end|>"
    assert text.pieces([10**9]) == [f"<{10**9}>"]


def test_runs_are_found_and_a_directory_without_any_is_refused(write_run, tmp_path):
    run_directory = write_run("demo", episodes=group("a", [1]))
    assert find_runs([str(tmp_path / "runs"), str(run_directory)]) == [run_directory]
    (tmp_path / "empty").mkdir()
    for arguments in ([], [str(tmp_path / "empty")], [str(tmp_path / "none")]):
        with pytest.raises(UsageError, match="view runs/demo"):
            view(arguments)


def test_a_port_that_is_taken_gives_way_to_the_next_one():
    with listening("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with listening("127.0.0.1", port) as other:
            assert port < other.getsockname()[1] < port + 100


def test_a_host_that_is_not_this_machines_is_refused():
    for host in ("203.0.113.1", "no such host"):
        with pytest.raises(UsageError, match="this machine"):
            listening(host, 0)


def test_the_command_serves_until_it_is_told_to_end(write_run, tmp_path):
    run_directory = write_run("demo", rl_000000=[trajectory([CODE])])
    process = subprocess.Popen(
        [*TOOLWISE, "view", str(run_directory), "port=0"],
        cwd=ROOT,
        env=os.environ | {"XDG_CACHE_HOME": str(tmp_path / "xdg")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    url, told = process.stdout.readline().split()[-1], process.stdout.readline()
    try:
        with urllib.request.urlopen(f"{url}api/runs") as answer:
            assert json.load(answer)["runs"][0]["id"] == "demo"
    finally:
        process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors, told) == (0, "", "Ctrl-C ends it\n")
    assert len(list((tmp_path / "xdg" / "toolwise" / "view").glob("*.sqlite"))) == 1


def test_a_link_to_a_run_is_no_second_one(write_run):
    run = write_run("demo", rl_000000=[])
    (run.parent / "latest").symlink_to(run.name)
    (run.parent / "loop").symlink_to("loop")
    assert find_runs([str(run.parent)]) == find_runs([str(run.parent / "latest")]) == [run]


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_port_that_is_none_is_refused(port):
    with pytest.raises(UsageError, match=f"port={port}: write a number from 0 to 65535"):
        listening("127.0.0.1", port)


def test_a_runs_name_may_hold_an_equals_sign(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("viewer.serve.serve", lambda paths, config, say: asked.append((paths, config.port)))
    (tmp_path / "lr=1e-5").mkdir()
    monkeypatch.chdir(tmp_path)
    view(["lr=1e-5", "runs/a=1", "port=9000"])
    assert asked == [(["lr=1e-5", "runs/a=1"], 9000)]
    with pytest.raises(UsageError):
        view(["runs", "prot=9000"])
