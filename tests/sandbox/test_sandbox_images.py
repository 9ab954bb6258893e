"""Images: they enter and leave whole; what the jail sends is capped before it is decoded."""

from __future__ import annotations

import pytest
from PIL import Image
from sandbox_host import LIMITS

from sandbox import Pool, Session, Status

pytestmark = pytest.mark.asyncio(loop_scope="session")

# A PNG of any header and any data, sent on the channel as the interpreter would send it.
FORGE_PNG = """
import os, struct, zlib
def chunk(kind, data): return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))
def png(width, height, data, extra=b''):
    header = struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
    return b'\\x89PNG\\r\\n\\x1a\\n' + chunk(b'IHDR', header) + extra + chunk(b'IDAT', data) + chunk(b'IEND', b'')
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
    assert result.stderr == "[sandbox] image not returned: it is empty, 4 x 0 pixels\n"


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


async def test_matplotlib_is_not_imported_unless_used(session: Session) -> None:
    assert (await session.run("import sys; any('matplotlib' in name for name in sys.modules)")).stdout == "False\n"


async def test_more_images_than_the_limit_are_dropped_and_it_is_said(session: Session) -> None:
    result = await session.run("from PIL import Image\nfor _ in range(50): Image.new('L', (2, 2)).show()")
    assert len(result.images) == LIMITS.images
    assert f"{50 - LIMITS.images} images not returned" in result.stderr


async def test_an_image_larger_than_the_limit_is_refused_and_it_is_said(session: Session) -> None:
    result = await session.run(f"from PIL import Image\nImage.new('L', ({LIMITS.image_side + 1}, 2))")
    assert result.images == ()
    assert f"the limit for each side is {LIMITS.image_side}" in result.stderr


async def test_an_image_bomb_is_not_decoded(session: Session) -> None:
    result = await session.run(FORGE_PNG + "send(png(60_000, 60_000, zlib.compress(bytes(1 << 20))))")
    assert (result.status, result.images) == (Status.OK, ())
    assert "60000 x 60000" in result.stderr


@pytest.mark.parametrize(
    "payload",
    [
        "b''",
        "b'GIF89a' + bytes(100)",
        "png(4, 4, b'not zlib')",
        "png(0, 0, zlib.compress(b''))",
        "png(4, 4, zlib.compress(bytes(10)))[:40]",
        "png(4, 4, zlib.compress(bytes(52)), chunk(b'zTXt', b'k\\0\\0' + zlib.compress(bytes(200 << 20), 9)))",
        "png(4, 4, zlib.compress(bytes(52)), chunk(b'iCCP', b'k\\0\\0' + zlib.compress(bytes(200 << 20), 9)))",
        "b'\\x89PNG\\r\\n\\x1a\\n' + os.urandom(5000)",
        "b'%!PS-Adobe-3.0 EPSF-3.0\\n(r) file'",
    ],
    ids=["empty", "not a PNG", "bad data", "no pixels", "cut short", "text bomb", "profile bomb", "noise", "PostScript"],
)
async def test_hostile_bytes_for_an_image_are_harmless(session: Session, payload: str) -> None:
    result = await session.run(FORGE_PNG + f"send({payload})", timeout_s=5)
    assert result.status is Status.OK
    assert len(result.images) <= 1
    assert all(image.info == {} for image in result.images) or result.images == ()


async def test_an_image_too_large_to_send_is_refused_and_it_is_said(session: Session) -> None:
    result = await session.run(
        "import os\nfrom PIL import Image\nImage.frombytes('RGB', (2800, 2800), os.urandom(2800 * 2800 * 3))"
    )
    assert result.images == ()
    assert "image not returned" in result.stderr


async def test_an_image_with_a_mode_that_png_lacks_is_converted(session: Session) -> None:
    (image,) = (await session.run("from PIL import Image\nImage.new('CMYK', (3, 3))")).images
    assert (image.mode, image.size) == ("RGB", (3, 3))


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
