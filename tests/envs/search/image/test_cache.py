"""DeepEyesV2's image-search cache: what was found for a sample is found for its image again, and nothing for any other."""

import asyncio
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from envs import resolve
from envs.errors import UsageError
from envs.search.backends import open_image_search
from envs.worlds.microworld.emblems import emblem


def row(number):
    file = io.BytesIO()
    emblem(number).save(file, "PNG")
    return {
        "data_source": "search",
        "prompt": [{"role": "user", "content": "<image>Whose?"}],
        "images": [{"bytes": file.getvalue(), "path": None}],
        "reward_model": {"style": "rule", "ground_truth": "x"},
        "extra_info": {"split": "train", "index": f"fvqa_{number}"},
    }


@pytest.fixture
def settings(tmp_path):
    pq.write_table(pa.Table.from_pylist([row(0), row(1)]), tmp_path / "search.parquet")
    (tmp_path / "found").mkdir()
    emblem(7).save(tmp_path / "found/a.png")
    found = {
        "tool_returned_web_title": ["Neldova", "Torburn", "Casmark"],
        "cached_images_path": ["found/a.png", None, "found/gone.png"],
    }
    (tmp_path / "cache.json").write_text(json.dumps({"fvqa_1": found}))
    return {"backend": "deepeyes_cache", "path": str(tmp_path / "cache.json"), "questions": str(tmp_path / "search.parquet")}


def test_what_was_found_for_a_sample_is_found_for_its_image(settings):
    matches = asyncio.run(open_image_search(settings).search(emblem(1), 5))
    assert [match.title for match in matches] == ["Neldova", "Torburn", "Casmark"]
    assert [match.thumbnail and match.thumbnail.size for match in matches] == [(112, 112), None, None]


def test_nothing_is_found_for_another_image(settings):
    search = open_image_search(settings)
    assert asyncio.run(search.search(emblem(0), 5)) == []
    assert asyncio.run(search.search(emblem(1).crop((0, 0, 200, 200)), 5)) == []


def test_an_episode_of_the_released_files_is_answered_from_the_cache(settings):
    import gymnasium

    env_id, options = resolve(settings["questions"])
    env = gymnasium.make(env_id, image_search=settings, **options, row=1, disable_env_checker=True)
    env.reset(seed=0)
    observation, *_ = env.step('<tool_call>{"name": "image_search"}</tool_call>')
    env.close()
    assert observation["text"].splitlines()[1] == "1. Neldova (cache)"
    assert len(observation["images"]) == 1


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("[]", "not an image-search cache"),
        ("{", "not JSON"),
        ('{"x": {"tool_returned_web_title": []}}', "no row with an image has a key"),
    ],
)
def test_a_cache_of_another_form_is_named(settings, content, complaint):
    with open(settings["path"], "w") as file:
        file.write(content)
    with pytest.raises(UsageError, match=complaint):
        open_image_search(settings | {"timeout_s": 1.0 + len(content)})


def test_the_questions_are_asked_for():
    with pytest.raises(UsageError, match="needs questions="):
        open_image_search({"backend": "deepeyes_cache", "path": "cache.json"})


def test_images_are_told_apart_by_their_size_too(settings):
    assert asyncio.run(open_image_search(settings).search(Image.new("RGB", (448, 448)), 5)) == []
