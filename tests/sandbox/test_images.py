"""Images: they enter and leave whole; what the jail sends is pixels, counted before they are kept, and never a file to parse."""

from __future__ import annotations

import pytest
from PIL import Image
from sandbox_host import LIMITS

from sandbox import Limits, Pool, Session, Status

pytestmark = pytest.mark.asyncio(loop_scope="session")

# An image of any header and any pixels, sent on the channel as the interpreter would send it.
FORGE = """
import os, struct
def pixels(mode, width, height, data): return struct.pack('<4sII', mode, width, height) + data
def send(payload):
    frame = struct.pack('<cI', b'P', len(payload)) + payload
    while frame: frame = frame[os.write(3, frame):]
"""


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
async def test_an_image_enters_and_leaves_unchanged(pool: Pool, mode: str) -> None:
    image = Image.effect_noise((37, 21), 80).convert(mode)
    async with pool.session(images=[image]) as session:
        (returned,) = (await session.run("image_1")).images
    assert (returned.mode, returned.size, returned.tobytes()) == (mode, image.size, image.tobytes())


async def test_an_empty_image_is_said_to_be_empty(pool: Pool) -> None:
    async with pool.session(images=[Image.new("RGB", (8, 8))]) as session:
        result = await session.run("image_1.crop((4, 4, 8, 4))")
    assert result.images == ()
    assert result.stderr == "[sandbox] image not returned: 4 x 0 pixels, it is empty\n"


async def test_several_images_have_their_numbers(pool: Pool) -> None:
    images = [Image.new("RGB", (n, 10 + n)) for n in range(1, 4)]
    async with pool.session(images=images) as session:
        assert (await session.run("image_1.size, image_2.size, image_3.size")).stdout == "((1, 11), (2, 12), (3, 13))\n"


async def test_a_palette_with_transparency_becomes_rgba(pool: Pool) -> None:
    image = Image.new("RGBA", (4, 4), (1, 2, 3, 0)).quantize()
    async with pool.session(images=[image]) as session:
        assert (await session.run("image_1.mode")).stdout == "'RGBA'\n"


async def test_a_large_image_arrives(pool: Pool) -> None:
    async with pool.session(images=[Image.new("RGB", (4000, 3000), (9, 8, 7))]) as session:
        assert (await session.run("image_1.size, image_1.getpixel((3999, 2999))")).stdout == "((4000, 3000), (9, 8, 7))\n"


async def test_changing_the_image_in_a_session_changes_nothing_outside(pool: Pool) -> None:
    image = Image.new("RGB", (8, 8), "white")
    async with pool.session(images=[image]) as session:
        await session.run("image_1.paste((0, 0, 0), (0, 0, 8, 8))")
    async with pool.session(images=[image]) as session:
        assert (await session.run("image_1.getpixel((0, 0))")).stdout == "(255, 255, 255)\n"
    assert image.getpixel((0, 0)) == (255, 255, 255)


async def test_images_come_back_after_the_session_died(pool: Pool) -> None:
    async with pool.session(images=[Image.new("RGB", (5, 6))]) as session:
        await session.run("import os; os._exit(1)")
        assert (await session.run("image_1.size")).stdout == "(5, 6)\n"


async def test_show_returns_the_image_and_echoes_no_text(session: Session) -> None:
    result = await session.run("from PIL import Image\nImage.new('RGB', (30, 20), 'red').show()")
    assert ([image.size for image in result.images], result.stdout) == ([(30, 20)], "")


async def test_plt_show_returns_the_open_figures(session: Session) -> None:
    code = "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.figure(figsize=(2, 1))\nplt.show()\nplt.get_fignums()"
    result = await session.run(code)
    assert ([image.size for image in result.images], result.stdout) == ([(512, 384), (200, 100)], "[]\n") or len(result.images) == 1
    assert "Warning" not in result.stderr


async def test_plt_show_works_after_the_code_chose_a_backend(session: Session) -> None:
    code = "import matplotlib\nmatplotlib.use('Agg')\nfrom matplotlib import pyplot as plt\nplt.figure(figsize=(2, 1))\nplt.show()"
    assert [image.size for image in (await session.run(code)).images] == [(200, 100)]


async def test_a_figure_as_the_last_expression_is_returned(session: Session) -> None:
    result = await session.run("import matplotlib.pyplot as plt\nfig = plt.figure(figsize=(2, 1))\nfig")
    assert ([image.size for image in result.images], result.stdout) == ([(200, 100)], "")


async def test_ten_figures_come_back_in_one_turn() -> None:
    code = "import matplotlib.pyplot as plt\nfor n in range(10): plt.figure().gca().plot(range(n + 2))\nplt.show()"
    async with Pool(Limits(), size=1) as pool, pool.session() as session:
        result = await session.run(code)
    assert (result.status, [image.size for image in result.images]) == (Status.OK, [(640, 480)] * 10)


async def test_more_images_than_the_limit_are_dropped_and_it_is_said(session: Session) -> None:
    result = await session.run("from PIL import Image\nfor _ in range(50): Image.new('L', (2, 2)).show()")
    assert len(result.images) == LIMITS.images
    assert f"{50 - LIMITS.images} images not returned" in result.stderr


async def test_an_image_larger_than_the_limit_is_refused_and_it_is_said(session: Session) -> None:
    result = await session.run(f"from PIL import Image\nImage.new('L', ({LIMITS.image_side + 1}, 2))")
    assert result.images == ()
    assert f"the limit for each side is {LIMITS.image_side}" in result.stderr


async def test_an_image_of_too_many_pixels_is_refused_and_it_is_said(session: Session) -> None:
    result = await session.run(f"from PIL import Image\nImage.new('L', ({LIMITS.image_side}, {LIMITS.image_side}))")
    assert result.images == ()
    assert f"the limit is {LIMITS.image_pixels} pixels" in result.stderr


async def test_images_of_too_many_pixels_together_are_dropped_and_it_is_said(session: Session) -> None:
    side = int(LIMITS.image_pixels**0.5) * 2 // 3
    result = await session.run(f"from PIL import Image\nfor _ in range(3): Image.new('L', ({side}, {side})).show()")
    assert [image.size for image in result.images] == [(side, side)] * 2
    assert (
        f"1 images not returned: the limits for one run are {LIMITS.images} images and {LIMITS.image_pixels} pixels"
        in result.stderr
    )


@pytest.mark.parametrize(
    "payload",
    [
        "b''",
        "b'\\x89PNG\\r\\n\\x1a\\n' + os.urandom(5000)",
        "pixels(b'RGB', 0, 7, b'')",
        "pixels(b'RGB', 4, 4, bytes(47))",
        "pixels(b'RGB', 4, 4, bytes(49))",
        "pixels(b'RGB', 1 << 31, 1 << 31, bytes(48))",
        "pixels(b'L', 2 ** 32 - 1, 2 ** 32 - 1, b'?')",
        "pixels(b'CMYK', 4, 4, bytes(64))",
        "pixels(b'\\xff\\xfe\\0\\0', 4, 4, bytes(32))",
    ],
    ids=["empty", "PNG", "no pixels", "one short", "one over", "bomb", "overflow", "unknown mode", "mode of noise"],
)
async def test_hostile_bytes_for_an_image_kill_only_the_session(session: Session, payload: str) -> None:
    result = await session.run(FORGE + f"send({payload}); import time; time.sleep(5)")
    assert (result.status, result.images) == (Status.KILLED, ())
    assert (await session.run("1")).status is Status.OK


async def test_a_forged_image_over_the_limits_is_dropped(session: Session) -> None:
    result = await session.run(FORGE + f"send(pixels(b'L', {LIMITS.image_side + 1}, 2, bytes({2 * LIMITS.image_side + 2})))")
    assert (result.status, result.images) == (Status.OK, ())
    assert "1 images not returned" in result.stderr


@pytest.mark.parametrize(
    ("image", "seen"),
    [
        ("Image.new('CMYK', (3, 3), (0, 0, 0, 0))", ("RGB", (255, 255, 255))),
        ("Image.new('1', (3, 3), 1)", ("RGB", (255, 255, 255))),
        ("Image.new('I;16', (3, 3), 0x8000)", ("L", 0x80)),
        ("Image.new('F', (3, 3), 64.0)", ("RGB", (64, 64, 64))),
        ("Image.new('RGBA', (3, 3), (9, 8, 7, 0)).quantize()", ("RGBA", (9, 8, 7, 0))),
    ],
    ids=["CMYK", "bits", "16 bits", "float", "palette"],
)
async def test_an_image_of_another_mode_is_converted(session: Session, image: str, seen: tuple[str, object]) -> None:
    (returned,) = (await session.run(f"from PIL import Image\n{image}")).images
    assert (returned.mode, returned.getpixel((1, 1))) == seen


async def test_a_failing_show_is_the_code_s_exception(session: Session) -> None:
    result = await session.run("from PIL import Image\nImage.new('RGB', (0, 0)).show()\n'after'")
    assert result.status in (Status.OK, Status.EXCEPTION)
    assert (await session.run("1")).stdout == "1\n"


@pytest.mark.parametrize(
    "module", ["numpy", "PIL", "scipy.stats", "pandas", "sympy", "sklearn.linear_model", "matplotlib.pyplot", "cv2"]
)
async def test_the_package_can_be_imported(pool: Pool, module: str) -> None:
    async with pool.session() as session:
        result = await session.run(f"import {module}")
    assert (result.status, result.stderr) == (Status.OK, "")
