"""Statistics equal what NumPy computes by hand; the alarm tells a dip from a collapse; records survive the disk, and the linter
finds what does not keep the contract."""

import dataclasses
import io
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rollout_fakes import ScriptedPolicy, spec

from evaluation.intervals import wilson_interval
from evaluation.records import evaluation_record, merge, table
from evaluation.tool_use import CollapseAlarm, tool_advantage, tool_use_metrics, variance_parts
from rollout.episode.environments import make
from rollout.episode.loop import run_episode
from rollout.lint import lint
from rollout.store import Store
from rollout.types import Episode, StopReason, ToolCallRecord, Trajectory, Turn


def trajectory(calls=(), group="g", reward=0.0, ability="faking", stop=StopReason.ANSWERED, needs=True, correct=False, number=0):
    """An episode of one sampled token per turn; `calls` are (tool, status, latency_s, action)."""
    turns = [Turn(action=action, tool_calls=[ToolCallRecord(*call)], generate_s=0.1) for *call, action in calls]
    turns.append(Turn(action="answer", generate_s=0.1))
    count = 2 * len(turns)
    mask = [0, 1] * len(turns)
    return Trajectory(
        episode_id=f"{group}-{number}",
        task_id="task",
        group_id=group,
        abilities=(ability,),
        source="fake",
        seed=0,
        token_ids=[7] * count,
        loss_mask=mask,
        logprobs=[-0.5 * one for one in mask],
        versions=[0 if one else -1 for one in mask],
        prompt_length=1,
        images=[],
        turns=turns,
        reward=reward,
        reward_parts={"accuracy": float(correct)},
        answer="answer",
        stop_reason=stop,
        needed_tools=None if needs is None else ["code"] * needs,
    )


CODE = ("code", "ok", 1.0, "print(1)")
EPISODES = [
    trajectory([CODE, CODE, ("code", "error", 3.0, "print(2)")], "a", 1.0, correct=True, number=0),
    trajectory([], "a", 0.25, number=1),
    trajectory([("search", "timeout", 9.0, "find")], "b", 0.5, ability="search", number=0),
    trajectory([("search", "ok", 1.0, "find")], "b", 0.0, ability="search", number=1),
    trajectory([CODE], "b", 0.0, stop=StopReason.INFRASTRUCTURE, number=2),
]


def test_metrics_of_a_small_batch_by_hand():
    metrics = tool_use_metrics(EPISODES, CollapseAlarm())
    expected = {
        "tools/calls_per_episode/mean": 5 / 4,
        "tools/calls_per_episode/std": np.std([3, 0, 1, 1]),
        "tools/calls_per_episode/var": np.var([3, 0, 1, 1]),
        "tools/calls_per_episode/max": 3,
        "tools/variance/within_group": (2 * np.var([3, 0]) + 2 * np.var([1, 1])) / 4,
        "tools/variance/between_group": (2 * (1.5 - 1.25) ** 2 + 2 * (1 - 1.25) ** 2) / 4,
        "tools/zero_variance_groups": 0.5,
        "tools/repeat_rate": 1 / 5,
        "tools/code/frequency": 0.25,
        "tools/code/error_rate": 1 / 3,
        "tools/code/latency_s/p50": 1.0,
        "tools/code/latency_s/p99": np.percentile([1, 1, 3], 99),
        "tools/search/frequency": 0.5,
        "tools/search/error_rate": 0.5,
        "reward/with_tools": 0.5,
        "reward/without_tools": 0.25,
        "reward/tool_advantage": 0.75,
        "critic/score/mean": 1.75 / 4,
        "critic/score/max": 1.0,
        "critic/score/min": 0.0,
        "response_length/mean": (4 + 1 + 2 + 2) / 4,
        "num_turns/mean": (8 + 2 + 4 + 4) / 4,
        "stop_reason/answered": 1.0,
        "stop_reason/time_limit": 0.0,
        "tools/collapse_alarm": 0.0,
        "ability/search/tools/calls_per_episode/mean": 1.0,
        "ability/search/tools/variance/within_group": 0.0,
        "ability/faking/tools/code/frequency": 0.5,
        "ability/faking/tools/collapse_alarm": 0.0,
    }
    assert {name: metrics[name] for name in expected} == pytest.approx(expected)
    assert "ability/search/reward/without_tools" not in metrics
    assert "stop_reason/infrastructure" not in metrics


def test_a_batch_that_the_machine_failed_whole_has_no_metrics():
    with pytest.raises(ValueError, match="infrastructure"):
        tool_use_metrics(EPISODES[-1:])


@given(st.lists(st.tuples(st.integers(0, 9), st.sampled_from("abcd")), min_size=1, max_size=40))
def test_within_and_between_add_up_to_the_variance(pairs):
    values, groups = np.array([value for value, _ in pairs], float), [group for _, group in pairs]
    within, between = variance_parts(values, groups)
    assert within + between == pytest.approx(np.var(values), abs=1e-9)
    by_hand = [np.array([value for value, name in pairs if name == group], float) for group in sorted(set(groups))]
    assert within == pytest.approx(sum(len(part) * np.var(part) for part in by_hand) / len(values), abs=1e-9)
    assert min(within, between) >= -1e-12


def test_tools_are_compared_within_groups_where_a_group_has_both():
    """Hard tasks call for the tool and score low: over all episodes the tool looks harmful, within the group it helps."""
    rewards, used = np.array([0.3, 0.1, 1.0, 1.0]), np.array([True, False, False, False])
    assert tool_advantage(rewards, used, ["hard", "hard", "easy", "easy"]) == pytest.approx(0.2)
    assert tool_advantage(rewards, used, ["a", "b", "b", "b"]) == pytest.approx(0.3 - 0.7)
    assert tool_advantage(rewards, np.zeros(4, bool), ["a"] * 4) is None


def ring(alarm, uses, advantage=0.4):
    return [alarm.update("", use, advantage) for use in uses]


def test_a_dip_that_recovers_is_silent_and_a_collapse_rings():
    dip = [0.8] * 10 + [0.5, 0.2, 0.1, 0.08, 0.1, 0.15, 0.2, 0.5] + [0.7] * 10
    assert not any(ring(CollapseAlarm(), dip))
    collapse = ring(CollapseAlarm(patience=10), [0.8] * 10 + [0.5] + [0.1] * 12)
    assert collapse == [False] * 20 + [True] * 3


def test_unlearning_a_tool_that_does_not_pay_is_silent():
    assert not any(ring(CollapseAlarm(), [0.8] * 10 + [0.0] * 30, advantage=-0.1))
    assert not any(ring(CollapseAlarm(), [0.8] * 10 + [0.0] * 30, advantage=None))


def test_the_alarm_stops_when_the_tool_comes_back_and_remembers_what_paid():
    alarm = CollapseAlarm(patience=3, warmup=2)
    ring(alarm, [0.9, 0.9, 0.9])
    assert ring(alarm, [0.0] * 4, advantage=None)[-1]
    assert alarm.ringing
    assert not ring(alarm, [0.6])[0]
    assert not alarm.ringing


def test_one_abilitys_collapse_rings_though_another_goes_on():
    alarm = CollapseAlarm(patience=2, warmup=1)
    for use in (0.9, 0.0, 0.0):
        alarm.update("", 0.5 + use / 2, 0.3)
        alarm.update("search", use, 0.3)
    assert alarm.ringing


def test_the_alarms_state_goes_through_json():
    first, second = CollapseAlarm(patience=6), CollapseAlarm(patience=6)
    ring(first, [0.8] * 5 + [0.1] * 4)
    second.load_state(json.loads(json.dumps(first.state())))
    assert ring(first, [0.1] * 3) == ring(second, [0.1] * 3) == [False, True, True]


@pytest.fixture
async def episodes(chat):
    return [
        await run_episode(one, make(one.env_id, one.env_kwargs), ScriptedPolicy(chat), chat)
        for one in [spec(number=number, env_seed=1, images=2) for number in range(3)]
    ]


async def test_episodes_come_back_from_the_disk(tmp_path, episodes, chat):
    store = Store(tmp_path)
    path = store.write("first", episodes[:1])
    store.write("first", episodes)
    assert path == tmp_path / "trajectories/first.jsonl"
    assert store.names() == ["first"]
    assert list(store.read("first")) == episodes
    files = {file.name for file in (tmp_path / "trajectories/images").iterdir()}
    assert files == {f"{sha}.png" for episode in episodes for sha in episode.images}
    assert lint(tmp_path / "trajectories", chat) == []
    assert lint(path) == []


def _edit(name, value):
    return lambda record: record | {name: value(record)}


CORRUPTIONS = {
    "lengths": (_edit("logprobs", lambda record: record["logprobs"][:-1]), "differ in length"),
    "mask": (_edit("loss_mask", lambda record: [1] * len(record["loss_mask"])), "loss_mask is set inside the prompt"),
    "version": (_edit("versions", lambda record: [-1] * len(record["versions"])), "has loss_mask 1 but version -1"),
    "field": (lambda record: {name: value for name, value in record.items() if name != "reward"}, "not a trajectory record"),
    "reason": (_edit("stop_reason", lambda record: "TIRED"), "TIRED"),
    "turn": (_edit("turns", lambda record: record["turns"][1:]), "sampled runs of tokens"),
    "order": (_edit("images", lambda record: record["images"][::-1]), "are not the last of its images"),
    "image": (_edit("images", lambda record: ["0" * 64, *record["images"][1:]]), "is missing"),
    "name": (_edit("images", lambda record: ["../../secret", *record["images"][1:]]), "is not a sha256"),
    "placeholder": (_edit("images", lambda record: record["images"][1:]), "runs of image placeholders"),
    "prompt": (_edit("token_ids", lambda record: [9, *record["token_ids"][1:]]), "differs from that of its group"),
    "twice": (_edit("episode_id", lambda record: "g-0"), "is there twice"),
    "mixed": (_edit("versions", lambda record: [*record["versions"][:-1], 5]), "several policy versions"),
}


@pytest.mark.parametrize("name", CORRUPTIONS)
async def test_the_linter_finds(tmp_path, episodes, chat, name):
    corrupt, problem = CORRUPTIONS[name]
    path = Store(tmp_path).write("run", episodes)
    lines = path.read_text().splitlines()
    lines[1] = json.dumps(corrupt(json.loads(lines[1])))
    path.write_text("\n".join(lines))
    problems = lint(path, chat)
    assert any(line.startswith("run.jsonl:2:") and problem in line for line in problems), problems


async def test_the_linter_finds_half_a_line_and_a_changed_image(tmp_path, episodes):
    path = Store(tmp_path).write("run", episodes)
    image = next((tmp_path / "trajectories/images").iterdir())
    image.write_bytes(image.read_bytes() + b"x")
    path.write_text(path.read_text()[:-40])
    problems = lint(path)
    assert any("is not what its name says" in line for line in problems)
    assert any(line.startswith("run.jsonl:3:") for line in problems)


def test_the_linter_wants_files(tmp_path):
    with pytest.raises(FileNotFoundError):
        lint(tmp_path)


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    store = Store(tmp_path)
    path = store.write("run", [Episode((EPISODES[0],))])
    before = path.read_text()
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        store.write("run", [Episode((EPISODES[1],))])
    assert path.read_text() == before
    assert [file.name for file in path.parent.iterdir()] == ["run.jsonl"]


def test_any_text_survives_the_disk(tmp_path):
    strange = Episode((dataclasses.replace(EPISODES[0], answer="é\n\r\u2028\x85</answer>", abilities=("search",)),))
    store = Store(tmp_path)
    path = store.write("run", [strange])
    assert list(store.read("run")) == [strange]
    assert lint(path) == []


def test_wilsons_interval_against_published_figures():
    assert wilson_interval(8, 10) == pytest.approx([0.4902, 0.9433], abs=1e-4)
    assert wilson_interval(0, 20) == pytest.approx([0.0, 0.1611], abs=1e-4)
    assert wilson_interval(20, 20)[1] == 1.0


def test_an_evaluation_record_keeps_the_contract():
    episodes = [
        trajectory([CODE], "a", correct=True, needs=True),
        trajectory([], "b", needs=True),
        trajectory([CODE], "c", correct=True, needs=False, ability="search"),
        trajectory([], "d", correct=True, needs=None, ability="search"),
        EPISODES[-1],
    ]
    record = evaluation_record("rl", episodes, policy="here", tasks="toolwise/Microworld-v0", seed=3, temperature=1.0)
    assert json.loads(json.dumps(record)) == record
    assert (record["episodes"], record["accuracy"], record["ci95"]) == (4, 0.75, wilson_interval(3, 4))
    assert record["calls_per_episode"] == {"mean": 0.5, "var": 0.25}
    assert record["by_ability"]["search"]["accuracy"] == 1.0
    assert record["by_need"] == {
        "needed": {"episodes": 2, "accuracy": 0.5, "tool_use": 0.5},
        "not_needed": {"episodes": 1, "accuracy": 1.0, "tool_use": 1.0},
    }


def test_records_replace_those_of_their_label_and_are_shown():
    record = evaluation_record("base", EPISODES, policy="p", tasks="t", seed=0, temperature=1.0)
    newer = record | {"accuracy": 1.0}
    assert merge([record, {"label": "rl"}], [newer, {"label": "control"}]) == [newer, {"label": "rl"}, {"label": "control"}]
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(table([record, newer | {"label": "rl", "by_need": {}}]))
    text = console.export_text()
    low, high = (100 * bound for bound in record["ci95"])
    assert f"25.0 % ({low:.1f}–{high:.1f})" in text
    assert "100.0 %" in text
