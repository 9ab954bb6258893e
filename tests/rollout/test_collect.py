"""What a collection runs: seeds by index, each row of a file once an epoch, held-out tasks by default; its settings are not
changed."""

import copy
import json
from pathlib import Path

import gymnasium
import pytest
from omegaconf import OmegaConf
from trajectories import trajectory

from configs import compose
from envs.errors import UsageError
from envs.runtime.atomic import write_file
from rollout.collect import CollectConfig, Collector, tasks_of
from rollout.specs import group_specs
from rollout.store import Store
from rollout.types import Episode
from starter.policies import find_policy


def config(tmp_path, *settings):
    return compose("collect", CollectConfig, [f"out={tmp_path}/run", *settings])


def keep(settings):
    """Write the settings as the command does that began with them."""
    write_file(Path(settings.out, "config.yaml"), OmegaConf.to_yaml(OmegaConf.structured(settings)))


def test_a_group_shares_its_task_and_no_two_episodes_a_sample():
    groups = group_specs("rl", ("Some-v0", {}), groups=3, group_size=2, seed=1, step=4)
    assert [group.group_id for group in groups] == ["rl-4-0", "rl-4-1", "rl-4-2"]
    assert [len({episode.env_seed for episode in group.episodes}) for group in groups] == [1, 1, 1]
    episodes = [episode for group in groups for episode in group.episodes]
    assert len({episode.sampling_seed for episode in episodes}) == len({episode.episode_id for episode in episodes}) == 6


def test_seeds_depend_on_nothing_but_the_place():
    def seeds(name="rl", **options):
        groups = group_specs(name, ("Some-v0", {}), **{"groups": 2, "group_size": 2, "seed": 1} | options)
        return [(episode.env_seed, episode.sampling_seed) for group in groups for episode in group.episodes]

    assert seeds() == seeds() == seeds(temperature=0.5, actor="expert") == seeds(groups=3)[:4]
    others = [seeds(seed=2), seeds(step=1), seeds(name="test")]
    assert all(not set(seeds()) & set(other) for other in others)


def test_a_benchmark_by_name_is_for_another_command(tmp_path):
    with pytest.raises(UsageError, match=r"tasks=bench:vstar is for `toolwise evaluate`, .*: write its file as tasks="):
        tasks_of(config(tmp_path, "tasks=bench:vstar"))


def test_nothing_is_started_if_no_episode_is_missing(tmp_path, monkeypatch):
    settings = config(tmp_path, "policy=random", "episodes=2", "resume=true")
    collector = Collector(settings, find_policy("starter"))
    specs = [group.episodes[0] for group in collector.specs]
    keep(settings)
    collector.store.write("episodes", [Episode((trajectory(group=spec.group_id, episode_id=spec.episode_id),)) for spec in specs])
    monkeypatch.setattr("rollout.collect.Fleet", None)
    with Collector(settings, find_policy("starter")) as collector:
        groups = collector.collect("episodes", collector.specs)
        assert collector.notes() == []
    assert [group.episodes[0].trajectory.episode_id for group in groups] == [spec.episode_id for spec in specs]
    assert (tmp_path / "run/config.yaml").exists()


def test_episodes_whose_settings_are_gone_are_not_gone_on_with(tmp_path):
    """They may be those of another policy."""
    settings = config(tmp_path, "policy=random", "resume=true")
    Store(settings.out).write("episodes", [Episode((trajectory(),))])
    with pytest.raises(UsageError, match=r"config\.yaml, with the settings .* is gone: put it back, or write another out="):
        Collector(settings, find_policy("starter"))


def test_a_broken_record_among_those_to_go_on_with_is_one_line_that_names_it(tmp_path):
    settings = config(tmp_path, "policy=random", "episodes=2", "resume=true")
    keep(settings)
    path = Store(settings.out).write("episodes", [Episode((trajectory(),))])
    path.write_bytes(b'{"episode_id":"\xff"}\n' + path.read_bytes())
    with (
        Collector(settings, find_policy("starter")) as collector,
        pytest.raises(UsageError, match=r"episodes\.jsonl, line 1: .*: put it back, or remove .*`toolwise lint`"),
    ):
        collector.collect("episodes", collector.specs)


def test_every_row_of_a_file_is_asked_once(tmp_path):
    path = tmp_path / "q.jsonl"
    path.write_text("".join(json.dumps({"question": f"Q{n}", "answer": "A"}) + "\n" for n in range(5)))
    collector = Collector(config(tmp_path, f"tasks={path}", "policy=random", "group_size=2"), find_policy("starter"))
    rows = [[episode.env_kwargs["number"] for episode in group.episodes] for group in collector.specs]
    assert sorted(rows) == [[number, number] for number in range(1, 6)]


def test_of_fewer_episodes_than_rows_the_seed_chooses_and_more_begin_with_the_same(tmp_path):
    path = tmp_path / "q.jsonl"
    path.write_text("".join(json.dumps({"question": f"Q{n}", "answer": "A"}) + "\n" for n in range(50)))

    def chosen(*settings):
        collector = Collector(config(tmp_path, f"tasks={path}", "policy=random", *settings), find_policy("starter"))
        return [group.episodes[0].env_kwargs["number"] for group in collector.specs]

    assert chosen("episodes=10") == chosen("episodes=20")[:10] != chosen("episodes=10", "seed=1")
    assert len(set(chosen("episodes=20"))) == 20


def drawn(rows, groups, first, **options):
    options = {"name": "rl", "seed": 1} | options
    specs = group_specs(options["name"], ("Some-v0", {}), groups=groups, seed=options["seed"], step=first, rows=rows, first=first)
    return [group.episodes[0].env_kwargs["number"] for group in specs]


@pytest.mark.parametrize("groups", [1, 3, 10, 25], ids=lambda groups: f"{groups} groups a step")
def test_every_row_comes_once_an_epoch_whatever_the_steps(groups):
    rows = range(100, 110)
    places = [row for first in range(0, 50, groups) for row in drawn(rows, groups, first)][:50]
    epochs = [places[start : start + 10] for start in range(0, 50, 10)]
    assert all(sorted(epoch) == list(rows) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 5
    assert places == drawn(rows, 50, 0)
    assert places[23:] == drawn(rows, 27, 23), "a resumed run goes on from the number of groups that it has drawn"


def test_the_order_of_rows_depends_on_the_seed_and_the_name():
    assert len({tuple(drawn(range(10), 10, 0, **options)) for options in ({}, {"seed": 2}, {"name": "test"})}) == 3


def third_party(split="train", **options):
    raise AssertionError("it is not made")


def test_held_out_tasks_are_taken_from_an_environment_that_would_train(tmp_path):
    def options(tasks, *settings):
        return tasks_of(config(tmp_path, f"tasks={tasks}", *settings))[1]

    assert options("toolwise/Mixture-v0") == options("toolwise/Atlas-v0") == {"split": "test"}
    assert options("toolwise/Mixture-v0", "+options.split=train", "+options.need=1") == {"split": "train", "need": 1}
    for name, entry, kwargs in (
        ("Trains-v0", third_party, {}),
        ("Tests-v0", third_party, {"split": "validation"}),
        ("Plain-v0", lambda: None, {}),
    ):
        gymnasium.register(f"collected/{name}", entry_point=entry, kwargs=kwargs)
    assert [options(f"collected/{name}") for name in ("Trains-v0", "Tests-v0", "Plain-v0")] == [{"split": "test"}, {}, {}]


def test_a_module_that_is_not_found_is_named(tmp_path):
    with pytest.raises(UsageError, match="tasks=no_such_module:Env-v0: there is no module no_such_module"):
        tasks_of(config(tmp_path, "tasks=no_such_module:Env-v0"))


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        (["policy=oracle"], "none"),
        (["policy=http://127.0.0.1:1/v1", "policy_model=m"], "endpoint"),
        (["rollout.engine.kind=rollout_fakes:ScriptedEngine"], "rollout_fakes:ScriptedEngine"),
        ([], "vllm"),
    ],
)
def test_the_policy_chooses_the_engine_and_the_settings_stay_as_they_were(tmp_path, settings, kind):
    given = config(tmp_path, *settings)
    before = copy.deepcopy(given)
    collector = Collector(given, find_policy("starter"))
    assert collector.rollout.engine.kind == kind
    assert collector.rollout.engine.policy == find_policy("starter")
    assert given == before


def test_an_unknown_engine_is_named_before_anything_starts(tmp_path):
    with pytest.raises(UsageError, match="did you mean vllm"):
        Collector(config(tmp_path, "rollout.engine.kind=vlm"), find_policy("starter"))


def test_episodes_are_not_overwritten(tmp_path):
    (tmp_path / "run/trajectories").mkdir(parents=True)
    (tmp_path / "run/trajectories/episodes.jsonl").write_text("")
    with pytest.raises(UsageError, match=r"holds episodes already: write resume=true"):
        Collector(config(tmp_path, "policy=random"), find_policy("starter"))
    keep(config(tmp_path, "policy=random"))
    Collector(config(tmp_path, "policy=random", "resume=true"), find_policy("starter"))


@pytest.mark.parametrize("other", ["seed=1", "group_size=2", "temperature=0", "+options.need=1", "rollout.episode.max_turns=3"])
def test_a_command_that_goes_on_runs_the_episodes_that_it_began_with(tmp_path, other):
    begun = config(tmp_path, "policy=random", "resume=true", "episodes=8")
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.structured(begun)))
    Collector(config(tmp_path, "policy=random", "resume=true", "episodes=9", "rollout.workers=2"), find_policy("starter"))
    with pytest.raises(UsageError, match="was begun with"):
        Collector(config(tmp_path, "policy=random", "resume=true", "episodes=8", other), find_policy("starter"))


def test_a_command_that_goes_on_removes_no_episode(tmp_path):
    begun = config(tmp_path, "policy=random", "resume=true", "episodes=9")
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.structured(begun)))
    with pytest.raises(UsageError, match="begun with episodes=9: write at least as many"):
        Collector(config(tmp_path, "policy=random", "resume=true", "episodes=8"), find_policy("starter"))
