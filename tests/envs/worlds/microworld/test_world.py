"""The built-in world: it is repeatable, its splits are disjoint, and items that need a tool cannot be distinguished without it."""

import random
import re

import numpy as np
import pytest

from envs.errors import UsageError
from envs.scoring.rules import exact
from envs.worlds.microworld import Microworld, make_task
from envs.worlds.microworld.basics import Basics
from envs.worlds.microworld.pictures import close_up_picture, plate_picture, view
from envs.worlds.microworld.places import places
from envs.worlds.microworld.reasoning import draw_product, draw_sum
from envs.worlds.microworld.splits import split_of


def pixels(image):
    return np.asarray(image)


def test_the_same_seed_gives_the_same_task():
    first, second = (make_task("perception", True, "train", 5) for _ in range(2))
    assert (first.question, first.answer) == (second.question, second.answer)
    assert np.array_equal(pixels(first.images[0]), pixels(second.images[0]))


@pytest.mark.parametrize("seed", range(5))
def test_a_far_plate_looks_the_same_whatever_its_digit(seed):
    views = [pixels(view(plate_picture(np.random.default_rng(seed), digit, 1, 2))) for digit in range(10)]
    assert all(np.array_equal(views[0], other) for other in views[1:])


def test_a_far_plate_at_full_size_shows_its_digit():
    pictures = {plate_picture(np.random.default_rng(0), digit, 1, 2).tobytes() for digit in range(10)}
    assert len(pictures) == 10


def test_a_close_plate_shows_its_digit_to_the_policy():
    assert len({view(close_up_picture(np.random.default_rng(0), digit)).tobytes() for digit in range(10)}) == 10


def test_the_policy_sees_a_reduced_copy():
    task = make_task("perception", False, "train", 0)
    assert task.images[0].size == (448, 448)
    assert task.views[0].size == (112, 112)


@pytest.mark.parametrize("draw", [draw_sum, draw_product])
def test_splits_share_no_arithmetic(draw):
    rng = np.random.default_rng(0)
    seen = {split: {draw(rng, split)[0] for _ in range(400)} for split in ("train", "validation", "test")}
    assert not seen["train"] & seen["test"]
    assert not seen["train"] & seen["validation"]


def test_a_product_and_its_mirror_are_in_one_split():
    rng = np.random.default_rng(0)
    for _ in range(200):
        a, _, b = draw_product(rng, "test")[0].split()
        assert split_of(f"{min(int(a), int(b))} * {max(int(a), int(b))}") == "test"


def test_splits_share_no_picture():
    train, test = (make_task("perception", True, split, 3) for split in ("train", "test"))
    assert not np.array_equal(pixels(train.images[0]), pixels(test.images[0]))


def test_half_of_the_items_need_the_tool():
    rng, world = np.random.default_rng(0), Microworld()
    assert 0.4 < np.mean([bool(world(rng).needed_tools) for _ in range(200)]) < 0.6


def test_the_expert_calls_the_tool_if_it_is_needed():
    for seed in range(20):
        for ability in ("perception", "reasoning"):
            script = make_task(ability, True, "train", seed).expert(random.Random(seed))
            assert [call.name for call in next(script).calls] == ["code"]


def test_sums_are_right():
    rng = np.random.default_rng(1)
    for _ in range(200):
        expression, value = draw_sum(rng, "train")
        assert exact(value, str(eval(expression)))


@pytest.mark.parametrize("kind", ["easy_search", "fact", "product"])
def test_what_a_base_reads_is_not_in_the_knowledge_base(kind):
    rng, draw = np.random.default_rng(0), Basics("train", kind, "mixture")
    known = {(place.name, place.fact(attribute)) for place in places() for attribute in ("code", "price")}
    read = [draw(rng) for _ in range(60)]
    assert sum((name, task.answer) in known for task in read for name in re.findall(r"[A-Z]\w+", task.question)) <= 3


@pytest.mark.parametrize("options", [{"split": "holdout"}, {"abilities": ["flying"]}, {"abilities": []}, {"need": 1.5}])
def test_unknown_options_are_refused(options):
    with pytest.raises(UsageError, match="write"):
        Microworld(**options)
