"""Before anything runs, the questions of a file are counted as an episode counts them: what does not fit whole is named, with what
to raise, and left out if that is asked for."""

import asyncio
import json
import re

import numpy as np
import pytest
from PIL import Image
from rollout_fakes import ScriptedPolicy

from envs import questions_of, resolve
from envs.errors import DatasetError
from envs.pictures import fitted
from envs.tool_env import MAX_PIXELS, MAX_SIDE
from rollout.collect import askable_rows
from rollout.config import EpisodeConfig, Overlong
from rollout.episode import fit, loop
from rollout.episode.environments import make
from rollout.episode.fit import Counter, fitting_rows, largest_image
from rollout.episode.loop import run_episode
from rollout.tokens.images import limited
from rollout.types import EpisodeSpec

LIMITS = {"max_tokens": 1024, "max_action_tokens": 64, "max_observation_tokens": 300, "max_pixels": 112 * 112}


@pytest.fixture(autouse=True)
def rows_are_tried_again_soon(monkeypatch):
    monkeypatch.setattr(loop, "PAUSES_S", (0.01, 0.01))


@pytest.fixture
def tasks(tmp_path):
    """Rows 2 and 4 fit; 1 has too much text, 3 too many pictures, 5 a text that leaves no room."""
    Image.new("RGB", (500, 300), "red").save(tmp_path / "a.png")
    rows = [
        {"question": "many words " * 100, "answer": "A"},
        {"question": "short", "answer": "A"},
        {"question": "Which of them?", "answer": "A", "images": ["a.png"] * 60},
        {"question": "one picture", "answer": "A", "images": ["a.png"], "system": "You see."},
        {"question": "many words " * 30, "answer": "A", "system": "and more " * 500},
    ]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return resolve(str(tmp_path / "q.jsonl"))


async def prompt_length(tasks, number, chat, config):
    """The number of tokens of the first prompt of a row, in an episode with all the room in the world."""
    env_id, options = tasks
    spec = EpisodeSpec("e", "g", env_id, 0, 0, env_kwargs=options | {"number": number})
    episode = await run_episode(spec, make(env_id, spec.env_kwargs), ScriptedPolicy(chat), chat, config)
    return episode.trajectory.prompt_length


@pytest.mark.parametrize("system_prompt", [None, "protocol", "Be brief."])
async def test_a_question_is_counted_as_its_episode_counts_it(tasks, chat, system_prompt):
    roomy = EpisodeConfig(max_tokens=1 << 16, max_observation_tokens=1 << 16, max_pixels=112 * 112, system_prompt=system_prompt)
    counter = Counter(make(*tasks), chat, roomy)
    for number in range(1, 6):
        assert counter.need(questions_of(*tasks).question(number)).whole == await prompt_length(tasks, number, chat, roomy)


def test_what_does_not_fit_is_named_with_what_to_raise(tasks, chat, caplog):
    config = EpisodeConfig(**LIMITS)
    assert list(fitting_rows(questions_of(*tasks), make(*tasks), chat, config)) == [1, 2, 3, 4, 5]
    said = [record.getMessage().partition("q.jsonl: ")[2] for record in caplog.records]
    assert re.match(
        r"2 of 5 questions are longer than rollout\.episode\.max_observation_tokens=300 \(row 1: \d+ tokens, row 5: ", said[0]
    )
    assert said[0].endswith("and are cut: raise it")
    assert re.match(
        r"1 of 5 questions do not fit into rollout\.episode\.max_tokens=1024 less 64 for an answer with pictures of "
        r"max_pixels=12544 \(row 3: \d+ tokens\), which are scaled down: raise the one or lower the other",
        said[1],
    )
    wider = EpisodeConfig(**LIMITS | {"max_observation_tokens": 9000})
    fitting_rows(questions_of(*tasks), make(*tasks), chat, wider)
    assert "2 of 5 questions do not fit" in caplog.text
    assert "even without pictures (row 1: " in caplog.text


def test_rows_that_do_not_fit_are_left_out_or_an_error_if_asked(tasks, policy_directory):
    skip, error = (EpisodeConfig(**LIMITS, overlong=overlong) for overlong in (Overlong.skip, Overlong.error))
    assert list(askable_rows(tasks, policy_directory, skip)) == [2, 4]
    with pytest.raises(DatasetError, match=r"2 of 5 questions .*: raise it \(rollout\.episode\.overlong=skip leaves"):
        askable_rows(tasks, policy_directory, error)
    with pytest.raises(DatasetError, match="no question is left"):
        askable_rows(tasks, policy_directory, EpisodeConfig(**LIMITS | {"max_tokens": 8}, overlong=Overlong.skip))
    assert askable_rows(("toolwise/Microworld-v0", {}), policy_directory, error) is None


def test_of_many_rows_some_are_counted_unless_each_must_be(tasks, chat, caplog, monkeypatch):
    monkeypatch.setattr(fit, "MOST_COUNTED", 3)
    everything = EpisodeConfig(**LIMITS, overlong=Overlong.skip)
    assert len(fitting_rows(questions_of(*tasks), make(*tasks), chat, everything)) == 2
    caplog.clear()
    fitting_rows(questions_of(*tasks), make(*tasks), chat, EpisodeConfig(**LIMITS | {"max_observation_tokens": 1}))
    assert "3 of 3 questions looked at, of 5 rows, are longer" in caplog.text


async def test_a_picture_that_can_be_read_again_is_shown_and_one_that_cannot_is_dropped_by_name(tasks, tmp_path, chat, caplog):
    """A truncated file is made whole again as soon as somebody has complained about it."""
    env_id, options = tasks
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(whole[:60])

    async def play():
        spec = EpisodeSpec("e", "g", env_id, 0, 0, env_kwargs=options | {"number": 4})
        episode = await run_episode(spec, make(env_id, spec.env_kwargs), ScriptedPolicy(chat), chat, EpisodeConfig(max_turns=1))
        return episode.trajectory

    dropped = await play()
    assert (dropped.unplayed, dropped.trainable) == (True, False)
    assert re.search(r"q\.jsonl, row 4: the image .*a\.png cannot be opened", str(dropped.error))
    caplog.clear()
    again = asyncio.create_task(play())
    while "it is tried again" not in caplog.text:
        await asyncio.sleep(0)
    (tmp_path / "a.png").write_bytes(whole)
    played = await again
    assert (played.error, len(played.images), played.trainable) == (None, 1, True)


@pytest.mark.parametrize("size", [(500, 300), (3000, 20), (16, 16), (1, 900), (20000, 1000)], ids=str)
def test_a_picture_is_counted_in_the_size_in_which_it_is_shown(chat, size):
    config = EpisodeConfig(max_pixels=100_000)
    shown = fit._shown(*size, chat, config)
    if max(size) / min(size) < 180:
        image = Image.new("RGB", size)
        assert shown.pixels.shape == limited(np.asarray(fitted(image, MAX_PIXELS, MAX_SIDE)), 100_000).shape
    assert chat.accepts(shown.pixels)


@pytest.mark.parametrize(("pixels", "side"), [(112 * 112, 112), (56 * 56, 56), (10**8, 112)])
def test_the_largest_image_is_bounded_by_the_setting_and_by_the_image_processor(chat, pixels, side):
    assert largest_image(chat, EpisodeConfig(max_pixels=pixels)) == chat.image_tokens(side, side)
    assert largest_image(chat, EpisodeConfig(max_pixels=pixels, max_tokens=3)) == 3
