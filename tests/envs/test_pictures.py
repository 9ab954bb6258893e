"""A picture is opened as a viewer shows it, whatever its mode, and named in any way that rows use; a broken one is found early."""

import base64
import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from envs.errors import PictureError
from envs.pictures import decode, fitted, from_base64, named, require_whole, rgb

RAMP = np.linspace(0, 65535, 3200).reshape(40, 80)
NOISE = Image.effect_noise((200, 150), 90).convert("RGB")


def encoded(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_a_photograph_is_upright_and_stays_so(kind):
    image = decode(encoded(Image.new("RGB", (80, 40), "red"), kind, exif=turned(6)))
    assert (image.size, rgb(image).size) == ((40, 80), (40, 80))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_shows_the_same_corner(orientation):
    shown = Image.new("RGB", (64, 32), "white")
    shown.paste("red", (0, 0, 16, 16))
    back = {2: [0], 3: [3], 4: [1], 5: [5], 6: [2], 7: [6], 8: [4]}.get(orientation, [])
    stored = shown
    for method in back:
        stored = stored.transpose(Image.Transpose(method))
    image = decode(encoded(stored, "PNG", exif=turned(orientation)))
    assert image.size == (64, 32)
    assert image.getpixel((2, 2)) == (255, 0, 0)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "RGBa", "La"])
def test_what_is_transparent_is_white(mode):
    assert rgb(Image.new(mode, (8, 8), 0)).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize(
    ("image", "kind", "options", "colour"),
    [
        (Image.new("P", (8, 8), 0), "GIF", {"transparency": 0}, (255, 255, 255)),
        (Image.new("P", (8, 8), 0), "PNG", {"transparency": 0}, (255, 255, 255)),
        (Image.new("RGB", (8, 8)), "PNG", {"transparency": (0, 0, 0)}, (255, 255, 255)),
        (Image.new("L", (8, 8)), "PNG", {"transparency": 0}, (255, 255, 255)),
        (Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "TIFF", {}, (255, 0, 0)),
        (Image.new("1", (8, 8), 1), "PNG", {}, (255, 255, 255)),
        (Image.new("RGB", (8, 8), "red"), "GIF", {"save_all": True, "append_images": [Image.new("RGB", (8, 8))]}, (255, 0, 0)),
        (Image.new("RGB", (8, 8), "red"), "PNG", {"save_all": True, "append_images": [Image.new("RGB", (8, 8))]}, (255, 0, 0)),
        (Image.new("RGB", (8, 8), "red"), "TIFF", {"save_all": True, "append_images": [Image.new("RGB", (9, 9))]}, (255, 0, 0)),
    ],
    ids=lambda value: value.mode if isinstance(value, Image.Image) else str(sorted(value)) if isinstance(value, dict) else None,
)
def test_palettes_print_colours_and_animations_are_shown(image, kind, options, colour):
    assert decode(encoded(image, kind, **options)).getpixel((0, 0)) == colour


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_stay_a_ramp(kind):
    levels = np.asarray(decode(encoded(Image.fromarray(RAMP.astype(np.uint16)), kind)))[..., 0]
    assert len(np.unique(levels)) > 200
    assert (levels.min(), levels.max()) == (0, 255)


@pytest.mark.parametrize(
    "levels", [RAMP, RAMP / 65535, RAMP / 257, RAMP * 100 - 5e5], ids=["16 bits", "0 to 1", "8 bits", "others"]
)
@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_floats_and_integers_of_any_range_stay_a_ramp(levels, kind):
    if kind is np.int32 and levels.max() == 1:
        return  # no ramp is left
    shown = np.asarray(decode(encoded(Image.fromarray(levels.astype(kind)), "TIFF")))
    assert len(np.unique(shown)) > 200


def test_what_is_not_a_number_is_black():
    levels = np.full((4, 4), np.nan, np.float32)
    levels[0, 0] = 1.0
    assert np.asarray(rgb(Image.fromarray(levels))).max(axis=(1, 2)).tolist() == [255, 0, 0, 0]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM", "JPEG2000"])
def test_a_picture_is_whole_exactly_if_it_can_be_decoded(kind):
    content = encoded(NOISE, kind)
    for length in (len(content), len(content) - 1, len(content) - 30, len(content) // 2, 200, 3):
        outcomes = []
        for function in (require_whole, decode):
            try:
                function(content[:length])
                outcomes.append(True)
            except PictureError:
                outcomes.append(False)
        assert outcomes[0] == outcomes[1], length
        assert outcomes[0] or length < len(content)


def test_the_end_of_a_thumbnail_is_not_the_end_of_a_photograph():
    exif = turned(1)
    exif[0x927C] = encoded(Image.new("RGB", (32, 32), "red"), "JPEG")
    content = encoded(NOISE, "JPEG", exif=exif)
    with pytest.raises(PictureError):
        require_whole(content[:2000])


def test_a_broken_checksum_of_a_png_is_found():
    content = bytearray(encoded(NOISE))
    content[len(content) // 2] ^= 255
    with pytest.raises(PictureError):
        require_whole(bytes(content))


def test_a_picture_with_too_many_pixels_is_named():
    with pytest.raises(PictureError, match="too large: 200 x 150 pixels; the limit is 100") as caught:
        decode(encoded(NOISE), most_pixels=100)
    assert caught.value.too_large


PNG = encoded(Image.new("RGB", (40, 30), "red"))
TEXT = base64.b64encode(PNG).decode()
URL_SAFE = base64.urlsafe_b64encode(encoded(NOISE)).decode()


@pytest.mark.parametrize(
    "value",
    [
        *(PNG, bytearray(PNG), TEXT.encode(), list(PNG), repr(PNG), "p.png", "./p.png", "folder/../p.png", "folder\\..\\p.png"),
        *(TEXT, "\n".join(TEXT[start : start + 76] for start in range(0, len(TEXT), 76)), TEXT.rstrip("="), f" {TEXT} "),
        *(
            f"data:image/png;base64,{TEXT}",
            f"data:;base64,{TEXT}",
            f"image/png;base64,{TEXT}",
            f"base64,{TEXT}",
            f"data:image/png;base64,{TEXT.replace('+', '%2B')}",
        ),
        *(
            {"bytes": PNG, "path": None},
            {"bytes": None, "path": "p.png"},
            {"image": "p.png"},
            {"url": f"data:image/png;base64,{TEXT}"},
        ),
        *({"type": "image_url", "image_url": {"url": f"data:image/png;base64,{TEXT}"}}, {"image": {"bytes": PNG}}),
        {"type": "base64", "media_type": "image/png", "data": TEXT},
    ],
    ids=lambda value: str(value)[:24],
)
def test_a_value_of_any_form_names_the_picture(tmp_path, value):
    (tmp_path / "folder").mkdir()
    (tmp_path / "p.png").write_bytes(PNG)
    assert decode(named(value, tmp_path)).size == (40, 30)


def test_a_file_url_and_the_url_safe_alphabet_are_read(tmp_path):
    (tmp_path / "p q.png").write_bytes(PNG)
    assert decode(named(f"file://{tmp_path}/p%20q.png", tmp_path / "elsewhere")).size == (40, 30)
    assert decode(named(URL_SAFE, tmp_path)).size == NOISE.size


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ("https://example.org/a.png", "is not local"),
        ("s3://bucket/a.png", "is not local"),
        ("missing.png", "there is no image 'missing.png'"),
        ("abcd" * 20, "there is no image"),
        ("a" * 5000, "neither a path nor the base64"),
        ("data:image/png;base64,!!", "not base64"),
        *((empty, "there is no image") for empty in ("", None, b"", {}, {"bytes": None}, 7)),
    ],
    ids=str,
)
def test_a_value_that_names_no_picture_is_named(tmp_path, value, complaint):
    with pytest.raises(PictureError, match=complaint):
        named(value, tmp_path)


def test_base64_may_have_white_space_and_no_padding():
    assert from_base64(" aGk \n") == from_base64("aGk=") == b"hi"


def test_a_picture_is_scaled_down_in_its_proportions_and_never_up():
    assert fitted(Image.new("RGB", (400, 100)), 10_000).size == (200, 50)
    assert fitted(Image.new("RGB", (4, 3)), 10_000).size == (4, 3)
    assert fitted(Image.new("RGB", (1, 500)), 1 << 20, most_side=100).size == (1, 100)


def test_threads_may_show_the_same_opened_file(tmp_path):
    picture = Image.effect_noise((600, 600), 90)
    picture.save(tmp_path / "a.png")
    with ThreadPoolExecutor(8) as threads:
        for _ in range(5):
            opened = Image.open(tmp_path / "a.png")
            assert {image.tobytes() for image in threads.map(rgb, [opened] * 8)} == {picture.convert("RGB").tobytes()}
