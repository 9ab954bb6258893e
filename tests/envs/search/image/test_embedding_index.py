"""The image search by a CLIP's or SigLIP's vectors: small ones with random weights, in the real layout, loaded as any other."""

import asyncio

import numpy as np
import pytest
from PIL import Image
from transformers import (
    BertConfig,
    BertModel,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
)

from envs.errors import UsageError
from envs.search.backends import open_image_search
from envs.search.building import IndexConfig, build_index
from envs.search.image.embedding_index import EmbeddingIndex
from envs.search.types import Picture
from envs.worlds.microworld.emblems import emblem

SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
KINDS = {
    "clip": (CLIPModel, CLIPConfig, CLIPImageProcessor, {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}),
    "siglip": (SiglipModel, SiglipConfig, SiglipImageProcessor, {"size": {"height": 32, "width": 32}}),
}


@pytest.fixture(scope="module", params=KINDS)
def model(request, tmp_path_factory):
    directory = tmp_path_factory.mktemp(request.param)
    model, config, processor, sizes = KINDS[request.param]
    model(config(text_config=SMALL, vision_config=SMALL | {"image_size": 32, "patch_size": 8})).save_pretrained(directory)
    processor(**sizes).save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def index(model, tmp_path_factory):
    directory = tmp_path_factory.mktemp("gallery") / "index"
    EmbeddingIndex.build((Picture(f"emblem {number}", emblem(number), "s") for number in range(40)), model, directory)
    return directory


def test_a_copy_is_found_first(index):
    search = open_image_search(str(index))
    smaller = [emblem(number).resize((200, 200), Image.Resampling.BICUBIC) for number in range(0, 40, 4)]
    found = [asyncio.run(search.search(image, 3)) for image in smaller]
    assert np.mean([matches[0].title == f"emblem {number}" for number, matches in zip(range(0, 40, 4), found, strict=True)]) >= 0.9
    assert {(len(matches), matches[0].source, matches[0].thumbnail.size) for matches in found} == {(3, "s", (112, 112))}


def test_the_command_builds_it_if_a_model_is_given(model, tmp_path):
    (tmp_path / "gallery").mkdir()
    for number in range(3):
        emblem(number).save(tmp_path / f"gallery/{number}.png")
    told = []
    config = IndexConfig(out=str(tmp_path / "index"), gallery=str(tmp_path / "gallery"), model=str(model))
    assert build_index(config, told.append) == ("image_search", 3)
    assert told == [3]


def test_a_directory_without_a_model_is_named_and_nothing_is_left(tmp_path):
    with pytest.raises(UsageError, match=r"there is no model; write the directory of a CLIP or SigLIP"):
        EmbeddingIndex.build([Picture("0", emblem(0))], tmp_path / "nowhere", tmp_path / "index")
    assert not list(tmp_path.iterdir())


def test_a_model_that_embeds_no_images_is_named(tmp_path):
    BertModel(BertConfig(vocab_size=8, **SMALL)).save_pretrained(tmp_path / "bert")
    CLIPImageProcessor().save_pretrained(tmp_path / "bert")
    with pytest.raises(UsageError, match="embeds no images"):
        EmbeddingIndex.build([Picture("0", emblem(0))], tmp_path / "bert", tmp_path / "index")
    assert not (tmp_path / "index").exists()


def test_a_damaged_index_is_named(index, tmp_path):
    for path in index.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "vectors.usearch").write_bytes(b"nothing")
    with pytest.raises(UsageError, match="cannot be read"):
        EmbeddingIndex.open(tmp_path)
