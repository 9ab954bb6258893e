"""A session is a notebook: it shows what one shows, reads cells that only one can read, has the question's pictures as files, and
an error names what there is instead of what is missing. Nothing of the sandbox's own is in what the model reads."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from PIL import Image

from sandbox import Limits, Pool, Session, Status

pytestmark = pytest.mark.asyncio(loop_scope="session")

RED, GREY = Image.new("RGB", (64, 48), "red"), Image.new("L", (30, 20), 9)
PLOT = "import matplotlib.pyplot as plt\nfigure, axes = plt.subplots(figsize=(2, 1))\n"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def notebook_pool() -> AsyncIterator[Pool]:
    async with Pool(Limits(images=4), size=2) as pool:
        yield pool


@pytest_asyncio.fixture(loop_scope="session")
async def notebook(notebook_pool: Pool) -> AsyncIterator[Session]:
    async with notebook_pool.session(images=[RED, GREY]) as session:
        yield session


FIGURE, SECOND = (200, 100), (100, 100)
SHOWN = {
    "an open figure": (PLOT + "axes.plot([1, 2]); None", [FIGURE], ""),
    "pandas": (PLOT + "import pandas\npandas.Series([1, 2]).plot(ax=axes); None", [FIGURE], ""),
    "two open figures": (PLOT + "plt.figure(figsize=(1, 1)); None", [FIGURE, SECOND], ""),
    "a figure that is shown": (PLOT + "plt.show()", [FIGURE], ""),
    "a figure that shows itself": (PLOT + "figure.show()", [FIGURE], ""),
    "a figure as the last expression": (PLOT + "figure", [FIGURE], ""),
    "a displayed figure": (PLOT + "display(figure)", [FIGURE], ""),
    "one shown, one open": (PLOT + "plt.show()\nplt.figure(figsize=(1, 1)); None", [FIGURE, SECOND], ""),
    "a closed figure": (PLOT + "plt.close()", [], ""),
    "a saved figure": (PLOT + "figure.savefig('a.png')", [FIGURE], ""),
    "a figure without pyplot": ("from matplotlib.figure import Figure\nFigure(figsize=(2, 1))", [FIGURE], ""),
    "before an error": (PLOT + "1 / 0", [FIGURE], ""),
    "any backend": ("import matplotlib\nmatplotlib.use('TkAgg')\n" + PLOT + "None", [FIGURE], ""),
    "an inline backend": ("%matplotlib inline\n" + PLOT + "None", [FIGURE], ""),
    "more figures than are allowed": (PLOT + "for _ in range(9): plt.figure(figsize=(1, 1))", [FIGURE] + [SECOND] * 3, ""),
    "an image": ("image_1", [(64, 48)], ""),
    "a list of images": ("[image_1, image_2]", [(64, 48), (30, 20)], "[<image 64 x 48>, <image 30 x 20>]\n"),
    "images in a mapping": ("{'a': (1, image_2)}", [(30, 20)], "{'a': (1, <image 30 x 20>)}\n"),
    "display": ("display(image_1, 'text')\ndisplay(image_2)", [(64, 48), (30, 20)], "'text'\n"),
    "IPython's display": ("from IPython.display import display\ndisplay(image_1)", [(64, 48)], ""),
    "IPython's image": ("from IPython.display import Image, display\ndisplay(Image('image_1.png', width=9))", [(64, 48)], ""),
    "IPython's image of bytes": ("import IPython\nIPython.display.Image(data=open('image_2.png', 'rb').read())", [(30, 20)], ""),
    "a figure after IPython": ("from IPython.display import display\n" + PLOT + "None", [FIGURE], ""),
    "a figure after tqdm": ("from tqdm.notebook import tqdm\n" + PLOT + "plt.ion(); None", [FIGURE], ""),
    "Colab's window": (
        "import cv2\nfrom google.colab.patches import cv2_imshow\ncv2_imshow(cv2.imread('image_1.png'))",
        *([(64, 48)], ""),
    ),
    "sympy's printing": ("import sympy\nsympy.init_printing()\nsympy.Symbol('x') ** 2", [], "x**2\n"),
    "IPython's text": ("from IPython.display import Markdown, display\ndisplay(Markdown('**bold**'))", [], "**bold**\n"),
    "a displayed array": ("import numpy as np\ndisplay(np.asarray(image_1))", [(64, 48)], ""),
    "a displayed mask": ("import numpy as np\ndisplay(np.asarray(image_2) > 3)", [(30, 20)], ""),
    "OpenCV's window": ("import cv2\ncv2.imshow('w', cv2.imread('image_1.png'))\ncv2.destroyAllWindows()", [(64, 48)], ""),
    "OpenCV's loop": ("import cv2\nwhile True:\n    if cv2.waitKey(1) & 0xFF == ord('q'): break", [], ""),
}  # fmt: skip


@pytest.mark.parametrize(("cell", "sizes", "text"), SHOWN.values(), ids=SHOWN)
async def test_it_shows_what_a_notebook_shows(notebook: Session, cell: str, sizes: list[tuple[int, int]], text: str) -> None:
    result = await notebook.run(cell)
    assert ([image.size for image in result.images], result.stdout) == (sizes, text), result.stderr
    assert (await notebook.run("1")).images == ()


async def test_figures_that_are_left_out_are_counted(notebook: Session) -> None:
    result = await notebook.run("import matplotlib.pyplot as plt\nfor _ in range(9): plt.figure(figsize=(1, 1))")
    assert result.stderr == "[sandbox] 5 figures not returned: the limit for one run is 4 images\n"


async def test_colours_of_a_window_are_those_of_the_picture(notebook: Session) -> None:
    (shown,) = (await notebook.run("import cv2\ncv2.imshow('w', cv2.imread('image_1.png'))")).images
    assert shown.getpixel((0, 0)) == (255, 0, 0)


async def test_an_array_says_how_to_see_it(notebook: Session) -> None:
    assert "display(array)" in (await notebook.run("import numpy\nnumpy.asarray(image_1)")).stderr


CELLS = {
    "%matplotlib inline\n1": ("1\n", ""),
    "%load_ext autoreload\n%autoreload 2\n%config InlineBackend.figure_format = 'retina'\n1": ("1\n", ""),
    "!pip install -q pytesseract\n1": (
        "1\n",
        "!pip install -q pytesseract: nothing can be installed; there are cloudpickle, cv2, ",
    ),
    "%pip install x\n1": ("1\n", "nothing can be installed; there are "),
    "!ls -la\n1": ("1\n", "!ls -la: there is no shell, only Python"),
    "files = !ls\nfiles": ("[]\n", "!ls: there is no shell, only Python; files is []"),
    "%time x = 2\nx": ("2\n", "%time is left out"),
    "%timeit -n 3 -r 2 print('once')": ("once\n", "%timeit is left out"),
    "%%time\nx = 3\nx": ("3\n", "%time is left out"),
    "%%bash\nls": ("", "%%bash: only Python runs here; the cell is left out"),
    "%who\n1": ("1\n", "%who is not known here and is left out"),
    "if True:\n    !ls\n    print(1)": ("1\n", "no shell"),
    "len?": ("Return the number of items in a container.\n", ""),
    "get_ipython().run_line_magic('matplotlib', 'inline')": ("", ""),
    "import asyncio\nawait asyncio.sleep(0)\nawait asyncio.sleep(0, 'slept')": ("'slept'\n", ""),
    "await __import__('asyncio').sleep(0, 7)": ("7\n", ""),
    "import asyncio\nasync def main(): return 5\nasyncio.run(main())": ("5\n", ""),
    "    x = 1\n    for _ in range(2):\n        x += 1\n    x": ("3\n", ""),
    "\n\tx = 1\n\tx": ("1\n", ""),
    "x = 1\n    for _ in range(2):\n        x += 1\n    x": ("3\n", ""),
    "for x in range(2):\n        print(x)\n    print('end')": ("0\n1\nend\n", ""),
    "x\u00a0=\u00a01\nx": ("1\n", ""),
    "\ufeffx = 1\n\u200bx": ("1\n", ""),
    "text = '''\n%matplotlib inline\n!ls\n'''\ntext": ("'\\n%matplotlib inline\\n!ls\\n'\n", ""),
}


@pytest.mark.parametrize(("cell", "printed", "noted"), [(cell, *rest) for cell, rest in CELLS.items()], ids=range(len(CELLS)))
async def test_it_reads_cells_that_only_a_notebook_reads(notebook: Session, cell: str, printed: str, noted: str) -> None:
    result = await notebook.run(cell)
    assert (result.status, result.stdout) == (Status.OK, printed), result.stderr
    assert noted in result.stderr
    assert bool(noted) == bool(result.stderr)


WRONG = ("x = 1 print(2)", "def f(:", "x = (", "if True:\nx = 1", "print('a", "x = 1\n  y = 2\n z = 3", "return 1", "a = ?b", "% 3")


@pytest.mark.parametrize("cell", WRONG)
async def test_what_is_wrong_in_a_notebook_too_is_an_error(notebook: Session, cell: str) -> None:
    result = await notebook.run(cell)
    assert result.status is Status.EXCEPTION or "is left out" in result.stderr or "not known" in result.stderr
    assert (await notebook.run("1")).stdout == "1\n"


async def test_a_task_lives_on_in_the_next_cell(notebook: Session) -> None:
    await notebook.run(
        "import asyncio\nasync def start(): return asyncio.create_task(asyncio.sleep(0.01, 'done'))\ntask = await start()"
    )
    assert (await notebook.run("await task")).stdout == "'done'\n"


READERS = {
    "Pillow": "from PIL import Image\nImage.open({}).convert('RGB').size",
    "OpenCV": "import cv2\ncv2.imread({}).shape[1::-1]",
    "scikit-image": "import skimage.io\nskimage.io.imread({}).shape[1::-1]",
    "matplotlib": "import matplotlib.pyplot as plt\nplt.imread({}).shape[1::-1]",
    "bytes": "import io\nfrom PIL import Image\nImage.open(io.BytesIO(open({}, 'rb').read())).size",
    "numpy": "import cv2, numpy as np\ncv2.imdecode(np.fromfile({}, np.uint8), 1).shape[1::-1]",
    "a path": "import pathlib, io\nfrom PIL import Image\nImage.open(io.BytesIO(pathlib.Path({}).read_bytes())).size",
    "a copy": "import shutil\nfrom PIL import Image\nImage.open(shutil.copy({}, 'copy.png')).size",
    "a link": "import os\nfrom PIL import Image\nos.symlink(os.path.realpath({}), '/tmp/a.png')\nImage.open('/tmp/a.png').size",
    "another name": "import os\nfrom PIL import Image\nos.rename(os.path.realpath({}), 'new.png')\nImage.open('new.png').size",
}
NAMES = ("image_1.png", "image_1.jpg", "./image_1.jpeg", "/work/image_1.png", "/mnt/data/image_1.png", "/mnt/data/image_1.jpg")


READ = [(reader, NAMES[0]) for reader in READERS] + [(reader, name) for reader in ("Pillow", "OpenCV") for name in NAMES[1:]]


@pytest.mark.parametrize(("reader", "name"), READ)
async def test_the_pictures_are_files(notebook: Session, reader: str, name: str) -> None:
    result = await notebook.run(READERS[reader].format(repr(name)))
    assert result.stdout == "(64, 48)\n", result.stderr


async def test_another_program_can_read_them(notebook: Session) -> None:
    cell = """
import subprocess, sys
code = "from PIL import Image; print(Image.open('image_2.png').size)"
subprocess.run([sys.executable, '-c', code], capture_output=True, text=True).stdout"""
    assert (await notebook.run(cell)).stdout == "'(30, 20)\\n'\n"


async def test_a_child_can_read_them(notebook: Session) -> None:
    cell = "import os\nfrom PIL import Image\nif os.fork() == 0: os._exit(Image.open('image_2.png').size[0])\nos.wait()[1] >> 8"
    assert (await notebook.run(cell)).stdout == "30\n"


async def test_they_are_found_before_they_are_read(notebook: Session) -> None:
    names = ("image_2.jpg", "/mnt/data/image_1.jpeg", "image_3.png")
    cell = f"import glob, os\nsorted(glob.glob('*.png')), [os.path.exists(name) for name in {names}]"
    assert (await notebook.run(cell)).stdout == "(['image_1.png', 'image_2.png'], [True, True, False])\n"


async def test_a_file_that_the_code_writes_in_their_place_stays(notebook: Session) -> None:
    cell = "from PIL import Image\nImage.new('L', (5, 5)).save('image_1.png')\nImage.open('image_1.png').size, image_1.size"
    assert (await notebook.run(cell)).stdout == "((5, 5), (64, 48))\n"


async def test_a_file_is_the_picture_to_the_pixel(notebook_pool: Pool) -> None:
    for mode in ("L", "RGB", "RGBA"):
        noise = Image.effect_noise((40, 30), 90).convert(mode)
        async with notebook_pool.session(images=[noise]) as session:
            same = "(read.mode, read.tobytes()) == (image_1.mode, image_1.tobytes())"
            cell = f"from PIL import Image\nread = Image.open('image_1.jpg')\n{same}"
            assert (await session.run(cell)).stdout == "True\n"


ORDINARY = {
    "isinstance(image_1, Image.Image), image_1.mode, image_1.size, image_1.format": "(True, 'RGB', (64, 48), 'PNG')",
    "pickle.loads(pickle.dumps(image_1)).getpixel((0, 0)), type(image_1) is Image.Image": "((255, 0, 0), True)",
    "copy.deepcopy(image_2) == image_2, image_1 == image_1.copy(), image_1 == image_2": "(True, True, False)",
    "image_1.thumbnail((8, 8)), image_1.size": "(None, (8, 6))",
    "image_1.putpixel((0, 0), (1, 2, 3)), image_1.getpixel((0, 0))": "(None, (1, 2, 3))",
    "image_1.paste((0, 0, 0), (0, 0, 9, 9)), image_1.getpixel((0, 0))": "(None, (0, 0, 0))",
    "int(np.asarray(image_2).sum()), np.array(image_1).shape": f"({9 * 600}, (48, 64, 3))",
    "image_1.im.size, image_2.getextrema(), image_1.histogram()[255]": "((64, 48), (9, 9), 3072)",
    "[image.size for image in (image_1.__enter__(), image_2.rotate(90, expand=True))]": "[(64, 48), (20, 30)]",
    "repr(image_1).startswith('<PIL.Image.Image image mode=RGB size=64x48 at ')": "True",
}


@pytest.mark.parametrize(("expression", "value"), ORDINARY.items(), ids=range(len(ORDINARY)))
async def test_a_picture_is_an_ordinary_image(notebook: Session, expression: str, value: str) -> None:
    result = await notebook.run(f"import copy, pickle\nimport numpy as np\nfrom PIL import Image\n{expression}")
    assert result.stdout == f"{value}\n", result.stderr


BOTH = "image_1, image_2 are the question's pictures: variables, and files image_1.png and so on"
ADVICE = {
    "image.size": BOTH,
    "img = input_image": BOTH,
    "def look(): return photo\nlook()": BOTH,
    "from PIL import Image\nImage.open('input_image.jpg')": BOTH,
    "from PIL import Image\nImage.open('/mnt/data/photo.webp')": BOTH,
    "from PIL import Image\ntry: Image.open('a.png')\nexcept OSError as error: raise ValueError('no') from error": BOTH,
    "import cv2\ncv2.imread('image.png').shape": BOTH,
    "Image.open('image_1.png')": "write from PIL import Image first",
    "np.zeros(3)": "write import numpy as np first",
    "import pytesseract": "pytesseract cannot be installed; there are cloudpickle, cv2, joblib, matplotlib, networkx, ",
    "from easyocr import Reader": "easyocr cannot be installed",
    "import plotly.express as px": "plotly cannot be installed",
    "import urllib.request\nurllib.request.urlopen('https://example.org/a.png')": "there is no network",
    "input('Which? ')": "nobody is there to answer input()",
    "open('table.csv')": "",
    "import numpy.nothing": "",
    "image_1.save('/content/out.png')": "there is no directory /content; /work, which is also /mnt/data, is the one to write to",
    "open('/path/to/image.jpg')": "there is no directory /path/to",
    "unknown_name": "",
    "1 / 0": "",
}


@pytest.mark.parametrize(("cell", "advice"), ADVICE.items(), ids=range(len(ADVICE)))
async def test_an_error_names_what_there_is(notebook: Session, cell: str, advice: str) -> None:
    result = await notebook.run(cell)
    assert result.status is Status.EXCEPTION
    assert advice in result.stderr
    assert ("[sandbox]" in result.stderr) == bool(advice)
    assert "/opt/" not in result.stderr


async def test_one_picture_is_named_as_one(notebook_pool: Pool) -> None:
    async with notebook_pool.session(images=[RED]) as session:
        assert "image_1 is the question's picture" in (await session.run("img")).stderr
    async with notebook_pool.session() as session:
        assert "the question has no pictures" in (await session.run("img")).stderr


async def test_a_traceback_points_at_the_place(notebook: Session) -> None:
    assert "    x + nothing\n        ^^^^^^^\n" in (await notebook.run("x = 1\nx + nothing")).stderr


WARNED = {
    "import warnings\nwarnings.warn('mine')": "<cell 1>:2: UserWarning: mine\n",
    PLOT + "axes.set_title('\U0001f9ff')\nNone": "UserWarning: Glyph 129535",
}


@pytest.mark.parametrize(("cell", "warning"), WARNED.items(), ids=range(len(WARNED)))
async def test_a_warning_shows_nothing_of_ours(notebook: Session, cell: str, warning: str) -> None:
    result = await notebook.run(cell)
    assert result.stderr.startswith(warning)
    assert "/opt/" not in result.stderr


SCRIPTS = "销售额 東京 カタカナ 서울 ไทยที่ हिन्दी বাংলা தமிழ் తెలుగు العربية עברית Ελλάδα Россия −1"
FONTS = (
    "",
    "plt.rcParams['font.sans-serif'] = ['SimHei']",
    "plt.rcParams['font.family'] = 'Microsoft YaHei'; plt.rcParams['axes.unicode_minus'] = False",
    "plt.rcParams['font.family'] = 'Arial'",
    "plt.rcParams['font.family'] = ['Times New Roman', 'SimSun']",
    "plt.rc('font', family='Malgun Gothic')",
    "import seaborn; seaborn.set_theme()",
    "plt.style.use('ggplot')",
)


@pytest.mark.parametrize("choice", FONTS)
async def test_every_script_is_drawn_whatever_font_is_asked_for(notebook: Session, choice: str) -> None:
    cell = f"import matplotlib.pyplot as plt\n{choice}\nplt.figure(figsize=(6, 1)); plt.title({SCRIPTS!r}); plt.plot([-1, 1]); None"
    result = await notebook.run(cell)
    assert (len(result.images), result.stderr) == (1, "")


async def test_a_font_that_is_not_there_is_named_once(notebook: Session) -> None:
    cell = "import matplotlib.pyplot as plt\nplt.rcParams['font.family'] = 'Comic Sans MS'\nplt.plot([1])\nplt.title('京')\nNone"
    assert (await notebook.run(cell)).stderr == "findfont: Font family 'Comic Sans MS' not found.\n"


async def test_pillow_finds_fonts_by_their_names(notebook: Session) -> None:
    names = (
        "arial.ttf",
        "simhei.ttf",
        "msyh.ttc",
        "NotoSansCJK-Regular.ttc",
        "/usr/share/fonts/truetype/dejavu/DejaVuSans-Bold.ttf",
    )
    cell = f"from PIL import ImageFont\n[ImageFont.truetype(name, 20).getname()[0] for name in {names}]"
    noto = "Noto Sans CJK JP"
    assert (await notebook.run(cell)).stdout == f"{['DejaVu Sans', noto, noto, noto, 'DejaVu Sans']}\n"


@pytest.mark.parametrize("module", ["skimage.measure", "sklearn.cluster", "seaborn", "shapely.geometry", "networkx", "tqdm", "cv2"])
async def test_what_models_import_is_there(notebook: Session, module: str) -> None:
    assert (await notebook.run(f"import {module}")).status is Status.OK


async def test_pictures_larger_than_the_session_do_not_keep_it_from_starting() -> None:
    side = 5500  # 115 MiB as Pillow holds it
    large = Image.effect_noise((side, side), 200).convert("RGB")
    async with Pool(Limits(memory_bytes=100 << 20, disk_bytes=2 << 20), size=1, preload=()) as pool:
        async with pool.session(images=[GREY, large, large]) as session:
            assert (await session.run("image_3.size")).stdout == f"({side}, {side})\n"
            result = await session.run("image_2.getpixel((0, 0))")
            assert (result.status, f"image_2 has {side} x {side} pixels" in result.stderr) == (Status.MEMORY, True)
            assert (await session.run("image_1.getpixel((0, 0))")).stdout == "9\n"
            assert "use the variable image_3" in (await session.run("open('image_3.png', 'rb').read(3)")).stderr
        async with pool.session(images=[Image.effect_noise((2500, 2500), 200)]) as session:
            assert "use the variable image_1" in (await session.run("open('image_1.png', 'rb')")).stderr
            assert (await session.run("image_1.size")).stdout == "(2500, 2500)\n"
