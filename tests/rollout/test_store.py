"""Records survive the disk: episodes with their images, failures, chains and any text; a file is written whole or not at all."""

import dataclasses

import pytest
from rollout_fakes import ScriptedPolicy, spec
from trajectories import CODE, trajectory

from envs.errors import UsageError
from rollout.episode.environments import make
from rollout.episode.loop import failed_episode, run_episode
from rollout.lint import lint
from rollout.store import Store, step_of
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


def test_an_episode_of_which_a_kill_left_some_chains_is_missing(tmp_path):
    whole, cut = (Episode((trajectory([CODE], "g", number), trajectory([CODE], "g", number, chain=1))) for number in range(2))
    store = Store(tmp_path)
    for episode in (whole, cut):
        store.append("run", episode)
    path = tmp_path / "trajectories/run.jsonl"
    lines = path.read_bytes()
    begin = len(b"".join(lines.splitlines(keepends=True)[:3]))
    for length in (begin + 3, begin + 200, len(lines) - 1):
        path.write_bytes(lines[:length])
        assert store.read_unfinished("run") == [whole], length
        shard = store.shard("rl_000000", f"{length:08x}")
        shard.unfinished.write_bytes(lines[:length])
        assert shard.finish({whole.chains[0].episode_id, cut.chains[0].episode_id}) == {cut.chains[0].episode_id}
        assert shard.path.read_bytes() == path.read_bytes()


def test_what_a_journal_does_not_name_is_removed(tmp_path, episodes):
    store = Store(tmp_path)
    for episode in episodes:
        store.append("run", episode)
    path = tmp_path / "trajectories/run.jsonl"
    names = [episode.chains[0].episode_id for episode in episodes]
    path.write_bytes(path.read_bytes() + b'{"episode_id":"cu')
    store.retain("run", names)
    assert list(store.read("run")) == episodes
    store.retain("run", names[1:])
    assert list(store.read("run")) == episodes[1:]
    store.retain("none", names)


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


def shards(store, episodes, name="rl_000012"):
    """Two finished shards of these episodes."""
    written = [store.shard(name, writer) for writer in ("0000aaaa", "0000bbbb")]
    for number, episode in enumerate(episodes):
        written[number % 2].append(episode)
    for shard in written:
        shard.finish({one.chains[0].episode_id for one in episodes})


def test_shards_are_read_as_one_name(tmp_path, episodes):
    store = Store(tmp_path)
    shards(store, episodes)
    store.write("with.w1a2b3c4.dots", episodes[:1])
    assert store.names() == ["rl_000012", "with.w1a2b3c4.dots"]
    assert sorted(path.name for path in store.paths("rl_000012")) == ["rl_000012.w0000aaaa.jsonl", "rl_000012.w0000bbbb.jsonl"]
    assert list(store.read("rl_000012")) == [episodes[0], episodes[2], episodes[1]]
    assert [group.episodes for group in store.groups("rl_000012")] == [(episodes[0], episodes[2], episodes[1])]
    assert lint(store.directory) == []


def test_a_picture_that_is_gone_is_one_line(tmp_path, episodes):
    store = Store(tmp_path)
    store.write("episodes", episodes)
    next(store.directory.glob("images/*.png")).unlink()
    with pytest.raises(UsageError, match=r"\.png, a picture of .*, cannot be read \(No such file.*put it back"):
        list(store.read("episodes"))


def test_lint_compares_the_shards_of_a_name(tmp_path, episodes):
    store = Store(tmp_path)
    shards(store, [episodes[0], episodes[0], episodes[1]])
    assert [problem for problem in lint(store.directory) if "twice" in problem] == [
        "rl_000012.w0000bbbb.jsonl:1: g-0: chain 0 of the episode is there twice"
    ]


def test_a_shard_that_a_kill_left_behind_is_recognised_and_goes_with_the_next_attempt(tmp_path, episodes):
    store = Store(tmp_path)
    for episode in episodes:
        store.shard("rl_000012", "0000aaaa").append(episode)
    assert store.names() == []
    with pytest.raises(FileNotFoundError):
        list(store.read("rl_000012"))
    assert [path.name for path in store.unfinished()] == ["rl_000012.w0000aaaa.jsonl.part"]
    store.clear("rl_000012")
    shards(store, episodes[:2])
    store.clear("rl_000011")
    assert list(store.read("rl_000012")) == episodes[:2]
    assert store.unfinished() == []


def test_a_shard_is_finished_with_the_episodes_that_count(tmp_path, episodes):
    shard = Store(tmp_path).shard("rl_000012", "0000aaaa")
    for episode in episodes:
        shard.append(episode)
    shard.unfinished.write_bytes(shard.unfinished.read_bytes()[:-10])
    wanted = [episode.chains[0].episode_id for episode in episodes[1:]]
    assert shard.finish(wanted) == {wanted[1]}
    assert list(Store(tmp_path).read("rl_000012")) == [episodes[1]]
    assert shard.finish(wanted) == set()
    assert Store(tmp_path).shard("rl_000012", "0000bbbb").finish(wanted) == set(wanted)


def test_a_name_that_is_written_whole_takes_the_place_of_its_shards(tmp_path, episodes):
    store = Store(tmp_path)
    shards(store, episodes)
    store.write("rl_000012", episodes[:1])
    assert list(store.read("rl_000012")) == episodes[:1]


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("rl_000012", (12, 0)),
        ("rl_000012_3", (12, 3)),
        ("rl_000012_", None),
        ("demonstrations", None),
        ("rl_x", None),
        ("rl_١", None),
    ],
)
def test_a_name_says_its_step_and_its_draw(name, found):
    assert step_of(name) == found
