"""Changes libraries as they are imported, so that code written for a notebook or a desktop finds what it expects. Runs in the jail.

pyplot's and OpenCV's windows send pictures to the host, and matplotlib draws every script that the jail has a font for. IPython and
Colab's `cv2_imshow`, unless they are installed, are stood in for by what code imports from them.
"""

from __future__ import annotations

import builtins
import importlib.abc
import importlib.machinery
import importlib.util
import logging
import os
import sys
import types
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from sandbox.jailed import shown

_OURS = "/opt/toolwise"
_FALLBACKS = (
    "DejaVu Sans", "Noto Sans CJK JP", "Noto Sans Devanagari", "Noto Sans Thai", "Hind Siliguri", "Noto Sans Tamil",
    "Noto Sans Telugu",
)  # fmt: skip
_QUIT = ord("q")  # what `cv2.waitKey` says was pressed: it ends the loops that wait for a key
_WINDOWS = (
    "namedWindow", "destroyWindow", "destroyAllWindows", "moveWindow", "resizeWindow", "setWindowTitle", "startWindowThread",
)  # fmt: skip
_IPYTHON = ("IPython", "IPython.display", "IPython.core", "IPython.core.display")
_COLAB = ("google", "google.colab", "google.colab.patches")
_TEXTS = ("HTML", "Markdown", "Latex", "Math", "Pretty", "JSON", "Code", "SVG")

before_reading: Callable[[Any], None] = lambda _: None  # noqa: E731
"""Is called with a path before native code opens it. Set by the interpreter."""
on_missing_file: Callable[[object], str] = lambda _: ""  # noqa: E731
"""What to say about a path that native code did not find. Set by the interpreter."""


def prepare() -> None:
    """Called once, in the zygote."""
    from PIL import Image

    Image.Image.show = _show_itself
    sys.meta_path.insert(0, _Changes())
    sys.meta_path.append(_NotebookFinder())
    builtins.display = shown.display  # ty: ignore[missing-attribute]
    builtins.get_ipython = _Shell  # ty: ignore[missing-attribute]
    warnings.formatwarning = _formatted_warning  # ty: ignore[invalid-assignment]


def _show_itself(image: Any, *_: Any, **__: Any) -> None:
    """What `show` of an image or a figure does."""
    shown.show(image)


def _formatted_warning(message: Any, category: type[Warning], filename: str, lineno: int, line: str | None = None) -> str:
    """As Python writes it, but without a place in our own code, which means nothing to whoever wrote the cell."""
    text = warnings._formatwarnmsg_impl(  # ty: ignore[missing-attribute]
        warnings.WarningMessage(message, category, filename, lineno, None, line)
    )
    return f"{category.__name__}: {message}\n" if filename.startswith(_OURS) else text


class _Changes(importlib.abc.MetaPathFinder):
    """Changes a library when it is imported."""

    def __init__(self) -> None:
        self._left: dict[str, Callable[[Any], None]] = {
            "matplotlib.pyplot": _change_pyplot,
            "cv2": _change_cv2,
            "sympy.interactive.printing": _change_sympy,
        }

    def find_spec(self, name: str, path: Sequence[str] | None, target: types.ModuleType | None = None) -> Any:
        change = self._left.pop(name, None)  # OpenCV's package imports a second module of its own name
        if change is None:
            return None
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def exec_module(module: types.ModuleType) -> None:
            execute(module)
            change(module)

        spec.loader.exec_module = exec_module
        return spec


def _change_pyplot(pyplot: Any) -> None:
    shown.pyplot = pyplot
    switch = pyplot.switch_backend

    def show_all(*_: Any, **__: Any) -> None:
        """Returns the open figures as images and closes them."""
        shown.figures()

    pyplot.show = show_all
    pyplot.Figure.show = _show_itself
    pyplot.switch_backend = lambda _: switch("agg")  # there is no window, whatever the code asks for
    _add_fallback_fonts()


def _add_fallback_fonts() -> None:
    """Lets matplotlib draw a character that the chosen font has not with one that has it, and name a missing font only once."""
    from matplotlib import font_manager  # ty: ignore[import-not-found]

    manager = font_manager.fontManager
    find = manager._find_fonts_by_props
    names = {font.name for font in manager.ttflist}
    fallbacks: list[Any] = []

    def find_all(*arguments: Any, **options: Any) -> list[Any]:
        if not fallbacks:
            fallbacks.extend(manager.findfont(name) for name in _FALLBACKS if name in names)
        found = find(*arguments, **options)
        return [*found, *(font for font in fallbacks if font not in found)]

    manager._find_fonts_by_props = find_all
    told: set[str] = set()

    def is_new(record: logging.LogRecord) -> bool:
        """Whether this has not been said yet: a figure asks for its font at each of its labels."""
        known = record.getMessage() in told
        told.add(record.getMessage())
        return not known

    logging.getLogger(font_manager.__name__).addFilter(is_new)


def _change_sympy(printing: Any) -> None:
    printing.get_ipython = lambda: None  # `init_printing` would set up a whole IPython


def _change_cv2(cv2: Any) -> None:
    read = cv2.imread

    def imread(path: Any, *arguments: Any, **options: Any) -> Any:
        before_reading(path)
        image = read(path, *arguments, **options)
        if image is None and not os.path.exists(path) and (advice := on_missing_file(path)):
            print(f"[sandbox] {path}: there is no such file; {advice}", file=sys.stderr)
        return image

    def imshow(_: Any, image: Any) -> None:
        """Shows an image as a window would: blue first, floats from 0 to 1."""
        numpy, kind = sys.modules["numpy"], str(image.dtype)
        if kind != "uint8":
            scale = 255 if kind.startswith("float") or kind == "bool" else 1 / 256
            image = numpy.clip(image.astype(float) * scale, 0, 255).astype(numpy.uint8)
        image = numpy.squeeze(image)
        order = {3: [2, 1, 0], 4: [2, 1, 0, 3]}
        from PIL import Image

        shown.show(Image.fromarray(image if image.ndim == 2 else numpy.ascontiguousarray(image[:, :, order[image.shape[2]]])))

    cv2.imread, cv2.imshow = imread, imshow
    cv2.waitKey = cv2.waitKeyEx = cv2.pollKey = lambda *_: _QUIT
    for name in _WINDOWS:
        setattr(cv2, name, lambda *_: None)


class _Shell:
    """What `get_ipython()` returns. Every magic command is left out, and it is said.

    It is false, which tells matplotlib that there is no shell whose events it could use.
    """

    def __bool__(self) -> bool:
        return False

    def __getattr__(self, name: str) -> Callable[..., None]:
        def left_out(*arguments: Any, **_: Any) -> None:
            if arguments[:1] != ("matplotlib",):
                print(f"[sandbox] get_ipython().{name}{arguments} is left out: only Python runs here", file=sys.stderr)

        return left_out


class _NotebookFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds IPython and Colab if nothing else does."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: types.ModuleType | None = None) -> Any:
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if name in (*_IPYTHON, *_COLAB) else None

    def exec_module(self, module: types.ModuleType) -> None:
        if module.__name__ in _COLAB:
            module.__dict__["cv2_imshow"] = lambda image: importlib.import_module("cv2").imshow("", image)
            return
        module.__dict__.update(get_ipython=_Shell, version_info=(9, 0, 0), __version__="9.0.0")
        if not module.__name__.endswith("display"):
            importlib.import_module(f"{module.__name__}.display")
            return
        texts = {name: type(name, (shown.Displayed,), {}) for name in _TEXTS}
        module.__dict__.update(texts, display=shown.display, Image=shown.DisplayedImage, clear_output=lambda *_, **__: None)
