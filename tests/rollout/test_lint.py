"""The linter finds what does not keep the contract of a trajectory file, and nothing in a file that does."""

import json
import os
from dataclasses import replace

import pytest
from rollout_fakes import ScriptedPolicy, spec
from trajectories import CODE, trajectory

from rollout.episode.environments import make
from rollout.episode.loop import run_episode
from rollout.lint import lint
from rollout.store import Store
from rollout.types import Episode


@pytest.fixture
async def episodes(chat):
    return [
        await run_episode(one, make(one.env_id, one.env_kwargs), ScriptedPolicy(chat), chat)
        for one in [spec(number=number, env_seed=1, images=2) for number in range(3)]
    ]


def _edit(name, value):
    return lambda record: record | {name: value(record)}


def _first_sampled(record, version):
    """The versions of a record, with another one for its first sampled token."""
    start = record["loss_mask"].index(1)
    return [*record["versions"][:start], version, *record["versions"][start + 1 :]]


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
    "placeholder": (_edit("images", lambda record: record["images"][1:]), "image placeholders, but its"),
    "prompt": (_edit("token_ids", lambda record: [9, *record["token_ids"][1:]]), "differs from that of its group"),
    "twice": (_edit("episode_id", lambda record: "g-0"), "is there twice"),
    "older": (_edit("versions", lambda record: _first_sampled(record, 5)), "by an older policy version"),
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


def chains(tmp_path, **changes):
    """The problems of a file with one episode of two chains, the second with these changes."""
    first = trajectory([CODE], "g", token_ids=[1, 2, 3, 4])
    fields = {"chain": 1, "token_ids": [1, 9, 3, 5], "logprobs": [0.0, -0.1, 0.0, -0.2]}
    second = trajectory([CODE], "g", **fields | {"turns": [replace(turn, generate_s=0.2) for turn in first.turns]} | changes)
    return lint(Store(tmp_path).write("run", [Episode((first, second))]))


def test_an_episode_of_two_chains_is_well(tmp_path):
    assert chains(tmp_path) == []


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"chain": 0}, "chain 0 of the episode is there twice"),
        ({"chain": 2}, "chain 2 stands in the place of chain 1"),
        ({"reward": 1.0}, "its chains differ in reward"),
        (
            {"token_ids": [8, 2, 3, 5], "logprobs": [0.0, -0.5, 0.0, -0.2], "turns": trajectory([CODE]).turns},
            "chain 1 repeats a turn that was sampled in an earlier chain",
        ),
        ({"turns": []}, "2 sampled runs of tokens, but 0 turns"),
    ],
)
def test_chains_that_do_not_belong_together_are_found(tmp_path, changes, problem):
    problems = chains(tmp_path, **changes)
    assert all(line.startswith("run.jsonl:2: g-0: ") for line in problems)
    assert any(problem in line for line in problems), problems


def test_what_is_no_readable_file_is_a_problem_and_not_waited_for(tmp_path):
    directory = tmp_path / "trajectories"
    path = Store(tmp_path).write("sound", [Episode((trajectory(images=("0" * 64,)),), {})])
    (directory / "images").mkdir()
    os.mkfifo(directory / "images" / f"{'0' * 64}.png")
    os.mkfifo(directory / "fifo.jsonl")
    (directory / "folder.jsonl").mkdir()
    (directory / "gone.jsonl").symlink_to(tmp_path / "nothing")
    (directory / "latin.jsonl").write_bytes(b"\xff\n" + path.read_bytes())
    problems = [line.partition(": ") for line in lint(directory)]
    named = {name: problem for name, _, problem in problems if name != "latin.jsonl:2"}
    assert len(problems) == 6
    assert named["fifo.jsonl"].endswith("fifo.jsonl is no regular file")
    assert named["folder.jsonl"].endswith("folder.jsonl is no regular file")
    assert "No such file" in named["gone.jsonl"]
    assert "0xff" in named["latin.jsonl:1"]
    assert "cannot be read" in named["sound.jsonl:1"]
