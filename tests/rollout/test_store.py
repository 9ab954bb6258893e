"""Records survive the disk: episodes with their images, failures, chains and any text; a file is written whole or not at all."""

import dataclasses

import pytest
from rollout_fakes import ScriptedPolicy, spec
from trajectories import CODE, trajectory

from rollout.episode.environments import make
from rollout.episode.loop import failed_episode, run_episode
from rollout.lint import lint
from rollout.store import Store
from rollout.types import Episode, Group


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


def test_episodes_that_were_appended_survive_a_kill_amid_the_next_line(tmp_path, episodes):
    store = Store(tmp_path)
    for episode in episodes:
        store.append("run", episode)
    assert list(store.read("run")) == episodes
    path = tmp_path / "trajectories/run.jsonl"
    path.write_bytes(path.read_bytes()[:-10])
    assert store.read_unfinished("run") == episodes[:-1]
    store.append("run", episodes[-1])
    assert store.read_unfinished("run") == episodes
    assert store.read_unfinished("none") == []


def test_a_failed_episode_comes_back_as_failed_with_its_error(tmp_path):
    store = Store(tmp_path)
    store.write("run", [failed_episode(spec(), "the wire is cut"), Episode((trajectory(number=1),))])
    failed, sound = store.read("run")
    assert (failed.failed, failed.error) == (True, "the wire is cut")
    assert (sound.failed, sound.error) == (False, None)
    (group,) = store.groups("run")
    assert group.sound == (sound,)


def test_groups_come_back_in_their_order_with_or_without_images(tmp_path):
    image = {"0" * 64: b"png"}
    episodes = [Episode((trajectory([CODE], group, number, images=[*image]),), image) for group in "ba" for number in range(2)]
    store = Store(tmp_path)
    store.write("run", episodes)
    assert store.groups("run") == [Group("b", tuple(episodes[:2])), Group("a", tuple(episodes[2:]))]
    assert [episode.images for group in store.groups("run", images=False) for episode in group.episodes] == [{}] * 4


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    store = Store(tmp_path)
    path = store.write("run", [Episode((trajectory(),))])
    before = path.read_text()
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        store.write("run", [Episode((trajectory(number=1),))])
    assert path.read_text() == before
    assert [file.name for file in path.parent.iterdir()] == ["run.jsonl"]


def test_any_text_survives_the_disk(tmp_path):
    strange = Episode((dataclasses.replace(trajectory(), answer="é\n\r\u2028\x85</answer>", abilities=("search",)),))
    store = Store(tmp_path)
    path = store.write("run", [strange])
    assert list(store.read("run")) == [strange]
    assert lint(path) == []
