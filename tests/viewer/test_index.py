"""The index follows the files: what grows is read on, what is written anew is read anew, what is broken is counted. Every filter
and the search find what they say, whatever the texts."""

import json
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest
from shown import group
from trajectories import CODE, trajectory

from rollout.store import Store
from rollout.types import StopReason, Turn
from viewer.index.cache import Pruned, claim, prune
from viewer.index.lines import Unreadable, read_line
from viewer.index.reading import Reader
from viewer.index.run_index import RunIndex
from viewer.serve import prune_cache


def opened(run, cache, **options):
    index = RunIndex(run, "tests", lambda prompt: "Which shape is it?", cache, **options)
    index.open()
    return index


def read_all(index):
    index.scan()
    while index.work(lambda: False):
        pass
    return index.indexed()


@pytest.fixture
def index(write_run, tmp_path):
    run = write_run("demo", rl_000000=group("a", [0, 1]), rl_000001=group("b", [2, 1]))
    made = opened(run, tmp_path / "cache")
    yield made
    made.close()


def test_the_summary_of_a_line_is_the_same_in_either_form():
    line = trajectory([CODE], images=["a" * 64]).to_json()
    divided, whole = read_line(line.encode()), read_line(json.dumps(json.loads(line), indent=None).encode())
    assert divided.row == whole.row
    assert divided.text == whole.text
    assert divided.prompt() == whole.prompt() == [7]
    assert divided.row["tokens"] == 4
    assert divided.row["sampled_tokens"] == 2


@pytest.mark.parametrize(
    "line",
    ["", "{", "[]", "null", "{}", '{"episode_id": 3}', "[" * 100_000, '{"episode_id": ""}', '{"a": 1' + "0" * 5000 + "}"],
    ids=lambda line: line[:16],
)
def test_what_is_no_record_is_unreadable(line):
    with pytest.raises(Unreadable):
        read_line(line.encode())


def test_wrong_types_in_a_record_are_shown_as_missing():
    record = {"episode_id": "e", "reward": float("nan"), "reward_parts": {"accuracy": "1"}, "turns": [1, {"action": 5}]}
    row = read_line(json.dumps(record | {"abilities": 7, "needed_tools": "code", "token_ids": 1}).encode()).row
    assert (row["reward"], row["reward_parts"], row["turns"], row["abilities"]) == (None, {"accuracy": None}, 1, [])


def test_older_records_are_read():
    turn = {"action": "a", "tool": "code", "tool_status": "ok", "tool_latency_s": 1.5}
    row = read_line(json.dumps({"episode_id": "e", "ability": "search+code", "turns": [turn]}).encode()).row
    assert (row["abilities"], row["tools"], row["tool_statuses"]) == (["search", "code"], ["code"], ["ok"])


def test_a_growing_file_is_read_on_and_a_half_line_later(index, append):
    assert read_all(index).episodes == 4
    line = trajectory(group="b", number=2).to_json() + "\n"
    append(index._run, "rl_000001.jsonl", line + line[:50])
    assert (read_all(index).episodes, index.indexed().half) == (5, 1)
    append(index._run, "rl_000001.jsonl", line[50:])
    assert (read_all(index).episodes, index.indexed().half, index.indexed().unreadable) == (6, 0, 0)
    assert [state.number for state in index.states()] == [0, 0]


def test_a_file_that_is_written_anew_is_read_anew_and_what_it_held_is_not_found(index):
    read_all(index)
    Store(index._run).write("rl_000001", [])
    assert read_all(index).episodes == 2
    Path(index._run, "trajectories/rl_000000.jsonl").unlink()
    assert read_all(index).episodes == 0
    with index.reader() as connection:
        assert connection.execute("SELECT count(*) FROM rows").fetchone() == (0,)


def test_an_index_is_kept_and_gives_way_if_it_is_broken(index, tmp_path):
    read_all(index)
    index.close()
    (file,) = (tmp_path / "cache").glob("*.sqlite")
    again = opened(index._run, tmp_path / "cache")
    assert (again.indexed().episodes, again.work(lambda: False)) == (4, False)
    again.close()
    file.write_bytes(b"no database" * 1000)
    anew = opened(index._run, tmp_path / "cache")
    assert anew.indexed().temporary is None
    assert read_all(anew).episodes == 4
    anew.close()


def test_where_the_cache_cannot_be_used_the_index_is_temporary(index, tmp_path, write_run):
    second = opened(index._run, tmp_path / "cache")
    assert "another viewer" in second.indexed().temporary
    assert read_all(second).episodes == 4
    place = Path(second._database._directory.name)
    second.close()
    assert not place.exists()
    (tmp_path / "file").touch()
    third = opened(index._run, tmp_path / "file")
    assert third.indexed().temporary
    third.close()


DAY = 86400


@pytest.mark.parametrize(
    ("state", "days", "stays"),
    [
        ("", 29, True),
        ("", 31, False),
        ("gone", 1, False),
        ("gone and held", 31, True),
        ("held", 31, True),
        ("gone elsewhere", 29, True),
        ("gone elsewhere", 31, False),
        ("of an older version", 29, True),
        ("of an older version", 31, False),
        ("shown", 31, True),
    ],
)
def test_an_index_that_nobody_needs_is_removed(index, tmp_path, state, days, stays):
    cache, run = tmp_path / "cache", index._run
    read_all(index)
    if "held" not in state:
        index.close()
    (lock,) = cache.glob("*.lock")
    if "older" in state:
        lock.write_text("")
    if "elsewhere" in state:
        lock.write_bytes(b"elsewhere\n" + bytes(run))
    if "gone" in state:
        shutil.rmtree(run)
    (cache / "notes.lock").write_text("a user's")
    size = sum(path.stat().st_size for path in cache.glob("demo-*.sqlite*"))
    pruned = prune(cache, [run] if state == "shown" else [], time.time() + days * DAY)
    assert pruned == (Pruned() if stays else Pruned(1, size)) and size > 10_000
    assert bool(list(cache.glob("demo-*"))) == stays
    assert (cache / "notes.lock").exists()
    if not stays:
        opened(run, cache).close()
        assert len(list(cache.glob("demo-*.sqlite"))) == 1


def test_a_lock_that_is_removed_while_it_is_awaited_is_made_again(tmp_path, monkeypatch):
    path, run = tmp_path / "demo-0123456789abcdef.sqlite", tmp_path / "gone"
    claim(path, run).close()
    monkeypatch.setattr("fcntl.flock", lambda lock, how, calls=[]: calls or calls.append(path.with_suffix(".lock").unlink()))
    with claim(path, run) as lock:
        assert os.path.samestat(os.fstat(lock.fileno()), os.stat(path.with_suffix(".lock")))


def test_what_was_removed_is_said_in_one_line(index, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    shutil.copytree(tmp_path / "cache", tmp_path / "toolwise" / "view")
    said = []
    prune_cache([index._run], said.append)
    assert said == []
    shutil.rmtree(index._run)
    prune_cache([], said.append)
    prune_cache([], said.append)
    assert [line[: line.index("(")] for line in said] == ["removed 1 index "]


def test_shards_are_one_name_and_unfinished_ones_show_as_such(index, append):
    append(index._run, "rl_000002.w0000000a.jsonl", trajectory(group="c").to_json() + "\n")
    append(index._run, "rl_000002.w0000000b.jsonl.part", trajectory(group="c", number=1).to_json() + "\n")
    read_all(index)
    assert [(name.name, unfinished) for name, _, unfinished, _ in index.names()] == [
        ("rl_000000", False),
        ("rl_000001", False),
        ("rl_000002", True),
    ]


def test_chains_are_one_episode_even_if_they_arrive_apart(index, append, show, write_run):
    first = trajectory([CODE], "c", 0)
    append(index._run, "rl_000002.jsonl", first.to_json() + "\n")
    read_all(index)
    other = replace(first, chain=1, turns=[Turn(action="what only chain one says")])
    append(index._run, "rl_000002.jsonl", other.to_json() + "\n")
    assert read_all(index).episodes == 5
    index.close()
    shown = show(index._run)
    shown.settled()
    (row,) = shown.get("runs/demo/episodes", q="only chain one")["rows"]
    assert (row["turns"], row["calls"], row["tokens"]) == (3, 1, 8)
    assert shown.get("runs/demo/episodes/c-0")["chains"] == 2


TEXTS = {
    "plain": "the quick brown fox",
    "markup": "<script>alert(1)</script>",
    "quotes": 'say "hello" AND OR NOT * (x) : ^',
    "chinese": "图像中的数字是七",
    "ends": "last words zq",
    "bidi": "abc \u202e reversed \u2066 isolate",
}


@pytest.fixture
def searched(write_run, show):
    turns = {key: [Turn(action=text)] for key, text in TEXTS.items()}
    shown = show(write_run("demo", rl_000000=[trajectory(group=key, turns=turn) for key, turn in turns.items()]))
    shown.settled()
    return shown


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("quick brown", ["plain"]),
        ("UICK BR", ["plain"]),
        ("<script>", ["markup"]),
        ('"hello" AND', ["quotes"]),
        ("* (x) :", ["quotes"]),
        ("数字", ["chinese"]),
        ("七", ["chinese"]),
        ("图像中的数字", ["chinese"]),
        ("zq", ["ends"]),
        ("\u202e", ["bidi"]),
        ("no such text", []),
        ("' OR 1=1 --", []),
        ("%", []),
    ],
)
def test_the_search_finds_the_text_as_it_stands(searched, query, found):
    assert sorted(row["group_id"] for row in searched.get("runs/demo/episodes", q=query)["rows"]) == found


def test_the_search_reads_questions(write_run, show):
    asked = [*map(ord, "user")]  # the starter's tokenizer has a token for each byte
    shown = show(
        write_run(
            "demo",
            rl_000000=[
                trajectory(
                    token_ids=[*asked, 7], loss_mask=[0] * 4 + [1], logprobs=[0.0] * 5, versions=[-1] * 4 + [0], prompt_length=4
                )
            ],
        )
    )
    shown.settled()
    question = shown.get("runs/demo/tasks")["rows"][0]["question"]
    assert question
    assert shown.get("runs/demo/episodes", q=question[1:])["total"] == 1


FILTERED = {
    "rl_000000": [
        *group("a", [0, 1], abilities=("search", "math")),
        *group("b", [2], abilities=("math",), needs=False),
    ],
    "rl_000001": [
        *group("c", [0], needs=None, stop=StopReason.TURN_LIMIT),
        trajectory([("crop", "error", 1.0, "x")], "d", 0, reward=0.5),
    ],
}


@pytest.fixture
def filtered(write_run, show):
    shown = show(write_run("demo", **FILTERED))
    shown.settled()
    return shown


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ({}, ["a-0", "a-1", "b-0", "c-0", "d-0"]),
        ({"name": "rl_000001"}, ["c-0", "d-0"]),
        ({"name": "rl_000000,rl_000001", "group": "a"}, ["a-0", "a-1"]),
        ({"name": "none"}, []),
        ({"task": "task-c"}, ["c-0"]),
        ({"ability": "search"}, ["a-0", "a-1"]),
        ({"ability": "math"}, ["a-0", "a-1", "b-0"]),
        ({"tool": "crop"}, ["d-0"]),
        ({"status": "ok"}, ["a-1", "b-0"]),
        ({"need": "not_needed"}, ["b-0"]),
        ({"need": "unknown"}, ["c-0"]),
        ({"used": "no"}, ["a-0", "c-0"]),
        ({"stop": "TURN_LIMIT"}, ["c-0"]),
        ({"correct": "yes"}, ["a-1", "b-0"]),
        ({"reward_min": "0.5", "reward_max": "0.9"}, ["d-0"]),
        ({"sort": "-calls", "limit": "2"}, ["b-0", "a-1"]),
        ({"sort": "reward", "offset": "2", "limit": "1"}, ["d-0"]),
        ({"used": "yes", "ability": "math", "correct": "yes", "q": "print"}, ["a-1", "b-0"]),
    ],
    ids=str,
)
def test_each_filter(filtered, filters, found):
    answer = filtered.get("runs/demo/episodes", **filters)
    assert [row["episode_id"] for row in answer["rows"]] == found
    assert answer["total"] >= len(found)


@pytest.mark.parametrize(
    ("filters", "word"),
    [
        ({"need": "perhaps"}, "not_needed"),
        ({"sort": "name"}, "reward"),
        ({"reward_min": "much"}, "number"),
        ({"limit": "100000"}, "200"),
        ({"limit": "nan"}, "number"),
        ({"offset": "-1"}, "offset"),
        ({"q": "x" * 1001}, "1000"),
        ({"q": "a\0b"}, "null"),
        ({"q": "a"}, "two characters"),
    ],
    ids=str,
)
def test_a_filter_that_cannot_be_is_refused_with_what_to_write(filtered, filters, word):
    status, error = filtered.refused("runs/demo/episodes", **filters)
    assert status == 400
    assert word in error


def test_facets_count_what_is_chosen(filtered):
    counts = filtered.get("runs/demo/facets", name="rl_000000")
    assert counts["abilities"] == {"math": 3, "search": 2}
    assert counts["need"] == {"needed": 2, "not_needed": 1}
    assert filtered.get("runs/demo/facets")["stops"] == {"ANSWERED": 4, "TURN_LIMIT": 1}


def test_tasks_have_the_statistics_of_their_group(filtered):
    first = filtered.get("runs/demo/tasks", name="rl_000000")["rows"][0]
    assert (first["group_id"], first["episodes"], first["accuracy"]) == ("a", 2, 0.5)
    assert first["reward"] == {"mean": 0.5, "std": 0.5}
    assert first["calls"] == {"mean": 0.5, "var": 0.25}


def test_the_draws_of_a_step_follow_each_other_as_steps(write_run, show):
    names = ("rl_000001", "rl_000000_1", "rl_000000", "rl_000000_10", "rl_000000_64", "rl_9999999")
    shown = show(write_run("demo", **{name: group(name, [1]) for name in names}))
    shown.settled()
    listed = shown.get("runs/demo/names")["names"]
    steps = [(one["name"], one["step"]) for one in listed if one["stage"] == "rl"]
    assert steps == [("rl_000000", 0), ("rl_000000_1", 0), ("rl_000000_10", 0), ("rl_000001", 1)]
    assert {one["name"] for one in listed} == set(names)


def test_a_run_that_cannot_be_indexed_says_so_and_keeps_none_of_the_others(write_run, show, monkeypatch):
    runs = [write_run(name, rl_000000=group("a", [1])) for name in ("bad", "demo")]

    def scan(self, real=Reader.scan):
        if self._directory.parent.name == "bad":
            raise OverflowError("a number")
        return real(self)

    monkeypatch.setattr(Reader, "scan", scan)
    shown = show(*runs)
    assert shown.settled().episodes == 1
    described = {run["id"]: run["indexed"]["failure"] for run in shown.get("runs")["runs"]}
    assert described == {"bad": "OverflowError: a number", "demo": None}
    assert shown.get("runs/bad/names")["names"] == []


def test_a_run_at_which_nothing_happens_is_looked_at_seldom_until_it_is_asked_for(index):
    read_all(index)
    assert index.pause_s == 1
    for age, pause in ((600, 10), (DAY, 60)):
        for path in (index._run / "trajectories").glob("*.jsonl"):
            os.utime(path, (time.time() - age,) * 2)
        index.scan()
        assert index.pause_s == pytest.approx(pause, rel=0.1)
    index.want([], 0)
    assert index.pause_s == 1


def test_files_that_are_hidden_or_whose_names_are_no_text_are_left_out_and_counted(index):
    directory = index._run / "trajectories"
    for name in (b"\xff.jsonl", b"._rl_000000.jsonl", b"a\nb.jsonl.part", b".episodes.jsonl.tmp", b"notes.txt"):
        Path(os.fsdecode(os.fsencode(directory) + b"/" + name)).write_text("{}")
    os.mkfifo(directory / "fifo.jsonl")
    (directory / "gone.jsonl").symlink_to("nowhere")
    told = read_all(index)
    assert (told.of, told.episodes, told.left_out) == (2, 4, 5)
    (directory / "fifo.jsonl").unlink()
    assert read_all(index).left_out == 4
