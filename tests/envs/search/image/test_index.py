"""The image index: a picture is found by a crop, a smaller or larger copy, a compressed one, one with other colours, also where it
is flat; it is there whole or not at all; and an episode can search for a crop that its code made."""

import base64
import io
import json
import tempfile

import gymnasium
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageEnhance

from envs.errors import UsageError
from envs.search.corpora import count_rows, read_gallery
from envs.search.image.catalogue import THUMBNAIL_SIDE
from envs.search.image.index import ImageIndex
from envs.search.types import Picture
from envs.types import ToolStatus
from envs.worlds.microworld.emblems import emblem

SIZE = 60


def flag(number):
    """Three stripes, lying or standing, of colours drawn from the number."""
    rng = np.random.default_rng([3, number])
    stripes = np.repeat(rng.integers(0, 256, (3, 1, 3)), 40, axis=0).astype(np.uint8)
    picture = Image.fromarray(np.repeat(stripes, 180, axis=1))
    return picture if number % 2 else picture.transpose(Image.Transpose.ROTATE_90)


def photograph(number):
    """Smooth blobs with some texture."""
    rng = np.random.default_rng([5, number])
    smooth = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize((640, 480), Image.Resampling.BICUBIC)
    texture = rng.normal(0, 12, (480, 640, 1))
    return Image.fromarray(np.clip(np.asarray(smooth) + texture, 0, 255).astype(np.uint8))


KINDS = {"emblem": emblem, "flag": flag, "photograph": photograph}


@pytest.fixture(scope="module")
def index():
    return ImageIndex.build(Picture(f"{kind} {number}", make(number)) for kind, make in KINDS.items() for number in range(SIZE))


def cropped(image):
    width, height = image.size
    return image.crop((width // 8, height // 8, width * 7 // 8, height * 7 // 8))


def smaller(image):
    return image.resize((image.width * 2 // 5, image.height * 2 // 5), Image.Resampling.BILINEAR)


def compressed(image):
    file = io.BytesIO()
    image.save(file, "JPEG", quality=35)
    return Image.open(file)


def recoloured(image):
    return ImageEnhance.Brightness(ImageEnhance.Color(image).enhance(0.8)).enhance(1.15)


def all_at_once(image):
    return compressed(recoloured(smaller(cropped(image))))


@pytest.mark.parametrize("change", [cropped, smaller, compressed, recoloured, all_at_once])
@pytest.mark.parametrize("kind", KINDS)
def test_a_changed_copy_is_found(index, kind, change):
    found = [f"{kind} {n}" in [match.title for match in index.find(change(KINDS[kind](n)), 5)] for n in range(0, SIZE, 5)]
    assert np.mean(found) >= 0.95


def test_thumbnails_come_along(index):
    (match,) = index.find(photograph(3), 1)
    assert match.title == "photograph 3"
    assert max(match.thumbnail.size) == THUMBNAIL_SIDE


def test_an_index_outlives_its_process(index, tmp_path):
    ImageIndex.build((Picture(str(n), emblem(n)) for n in range(8)), tmp_path / "index")
    assert ImageIndex.open(tmp_path / "index").find(emblem(5), 1)[0].title == "5"


def test_an_index_without_a_directory_leaves_no_files_even_if_its_process_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    index = ImageIndex.build(Picture(f"flag {number}", flag(number)) for number in range(3))
    assert list(tmp_path.iterdir()) == []
    assert index.find(flag(1), 1)[0].title == "flag 1"


def test_a_build_that_fails_leaves_nothing(tmp_path):
    def broken():
        yield Picture("0", emblem(0))
        raise UsageError("row 2")

    with pytest.raises(UsageError, match="row 2"):
        ImageIndex.build(broken(), tmp_path / "index")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_a_damaged_index_is_named(tmp_path, damage):
    ImageIndex.build([Picture("0", emblem(0))], tmp_path / "index")
    layouts = tmp_path / "index/layouts.bin"
    layouts.unlink() if damage == "missing" else layouts.write_bytes(layouts.read_bytes()[:-3])
    with pytest.raises(UsageError, match=str(tmp_path)):
        ImageIndex.open(tmp_path / "index")


def test_a_directory_of_pictures_is_read_with_its_titles(tmp_path):
    for name in ("b.png", "a.jpg"):
        emblem(1).save(tmp_path / name)
    (tmp_path / "titles.jsonl").write_text(json.dumps({"image": "b.png", "title": "Chad", "source": "s"}) + "\n")
    assert [(picture.title, picture.source) for picture in read_gallery(tmp_path)] == [("a", ""), ("Chad", "s")]


def test_a_parquet_of_pictures_is_read(tmp_path):
    file = io.BytesIO()
    emblem(1).save(file, "PNG")
    rows = [{"title": "T", "image": {"bytes": file.getvalue(), "path": None}}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "gallery.parquet")
    (picture,) = read_gallery(tmp_path / "gallery.parquet")
    assert (picture.title, picture.image.size) == ("T", (448, 448))


def test_a_file_that_is_no_picture_is_named(tmp_path):
    (tmp_path / "a.png").write_bytes(b"nonsense")
    with pytest.raises(UsageError, match=r"a\.png"):
        list(read_gallery(tmp_path))


SUFFIXES = ["PNG", "JPG", "jpeg", "jfif", "webp", "bmp", "gif", "tif", "TIFF", "avif", "jp2"]


def test_pictures_of_any_kind_and_in_any_folder_are_read(tmp_path):
    (tmp_path / "dogs").mkdir()
    for suffix in SUFFIXES:
        emblem(1).save(tmp_path / "dogs" / f"{suffix}.{suffix}")
    assert sorted(picture.title for picture in read_gallery(tmp_path)) == sorted(f"dogs/{suffix}" for suffix in SUFFIXES)
    assert count_rows(tmp_path) == len(SUFFIXES)


@pytest.mark.parametrize("name", ["b.jpg", "b.PNG", "._a.png", "notes.txt", "dogs/b.tif"])
def test_what_is_no_picture_is_left_out_and_said(tmp_path, caplog, name):
    emblem(1).save(tmp_path / "a.png")
    (tmp_path / "dogs").mkdir()
    (tmp_path / name).write_bytes(b"<html>")
    assert [picture.title for picture in read_gallery(tmp_path)] == ["a"]
    assert f"1 entries are left out: {name} (" in caplog.text


def test_a_broken_row_of_a_parquet_is_left_out_and_said(tmp_path, caplog):
    file = io.BytesIO()
    emblem(1).save(file, "PNG")
    images = [file.getvalue(), file.getvalue()[:50], base64.b64encode(file.getvalue()), None]
    pq.write_table(pa.table({"title": ["T", "U", "V", "W"], "image": images}), tmp_path / "gallery.parquet")
    assert [picture.title for picture in read_gallery(tmp_path / "gallery.parquet")] == ["T", "V"]
    assert "2 entries are left out: row 2 (the image in the row cannot be opened" in caplog.text


def test_a_photograph_of_a_gallery_is_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (80, 40), "white").save(tmp_path / "phone.jpg", exif=exif)
    (picture,) = read_gallery(tmp_path)
    assert picture.image.size == (40, 80)


async def test_an_episode_searches_for_its_own_crop(index):
    """A contact sheet, of which no part but the crop is in the gallery as it stands."""
    sheet = Image.new("RGB", (1344, 448))
    for place, number in enumerate((7, 8, 9)):
        sheet.paste(emblem(number), (448 * place, 0))
    from envs.types import Task

    task = Task("t", "Whose emblem is in the middle?", "emblem 8", "search", "test", images=(sheet,))
    env = gymnasium.make("toolwise/Reasoning-v0", image_search=index, top_k=1, disable_env_checker=True).unwrapped
    try:
        await env.reset_async(seed=0, options={"task": task})
        await env.step_async("<code>\n```python\nimage_1.crop((448, 0, 896, 448))\n```\n</code>")
        call = '<tool_call>{"name": "image_search", "arguments": {"image": 2}}</tool_call>'
        observation, *_, info = await env.step_async(call)
        assert info["tool_call"].status is ToolStatus.OK
        assert "emblem 8" in observation["text"]
        wrong, *_, info = await env.step_async(call.replace("2}", "9}"))
        assert info["tool_call"].status is ToolStatus.ERROR
        assert "from 1 to" in wrong["text"]
    finally:
        await env.close_async()
