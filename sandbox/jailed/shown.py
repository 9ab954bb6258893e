"""What a cell shows, as a notebook would: images, figures, arrays, `display`. Runs in the jail."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from typing import Any

_MOST_ITEMS, _MOST_DEPTH = 50, 3
_LEAST_SIDE = 8  # smaller arrays are data

send: Callable[[Any], bool] = lambda _: True  # noqa: E731
"""Sends a PIL image or a matplotlib figure to the host; False if the run may show no more. Set by the interpreter."""
most_images = 1
"""How many images a run may show. Set by the interpreter."""
pyplot: Any = None
"""`matplotlib.pyplot`, once it is imported."""


def show(value: Any) -> bool:
    """Sends an image, or a figure, which is then closed: the end of the cell would show it again."""
    goes_on = send(value)
    if pyplot is not None and hasattr(value, "savefig"):
        pyplot.close(value)
    return goes_on


def open_figures() -> bool:
    """Whether `figures` has anything to show."""
    return pyplot is not None and bool(pyplot.get_fignums())


def figures() -> None:
    """Shows and closes all open figures, as a notebook does at the end of a cell."""
    numbers = pyplot.get_fignums()
    try:
        for done, number in enumerate(numbers):
            if not send(pyplot.figure(number)):
                if left := len(numbers) - done - 1:  # each takes time to draw
                    print(f"[sandbox] {left} figures not returned: the limit for one run is {most_images} images", file=sys.stderr)
                break
    finally:
        pyplot.close("all")


def echo(value: Any) -> None:
    """Shows the value that a cell ends with, or writes it."""
    if _is_shown(value):
        _show_alone(value)
    elif _holds_shown(value):
        sys.stdout.write(f"{_described(value)}\n")
    else:
        sys.stdout.write(f"{value!r}\n")
        if _from_array(value) is not None:
            sys.stderr.write("[sandbox] display(array) shows an array as a picture\n")


def display(*values: Any, **_: Any) -> None:
    """Shows each value: an image, figure or array of bytes as a picture, anything else as text."""
    for value in values:
        if (picture := _from_array(value)) is not None:
            show(picture)
        else:
            echo(value)


def _is_shown(value: Any) -> bool:
    if isinstance(value, Displayed):
        return True
    kinds = {f"{kind.__module__}.{kind.__qualname__}" for kind in type(value).__mro__}
    return not kinds.isdisjoint(("PIL.Image.Image", "matplotlib.figure.Figure"))


def _show_alone(value: Any) -> None:
    if isinstance(value, Displayed):
        value.show()
    else:
        show(value)


def _items(value: Any) -> list[Any]:
    if type(value) not in (list, tuple, dict):
        return []
    items = list(value.values()) if isinstance(value, dict) else list(value)
    return items if len(items) <= _MOST_ITEMS else []


def _holds_shown(value: Any, depth: int = 1) -> bool:
    return any(_is_shown(item) or (depth < _MOST_DEPTH and _holds_shown(item, depth + 1)) for item in _items(value))


def _described(value: Any) -> str:
    """The value's text, in which each image is shown and stands as its size."""
    if _is_shown(value):
        _show_alone(value)
        return f"<image {value.width} x {value.height}>" if hasattr(value, "width") else "<figure>"
    if not _holds_shown(value):
        return repr(value)
    parts = [_described(item) for item in _items(value)]
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key!r}: {part}" for key, part in zip(value, parts, strict=True)) + "}"
    return ("[{}]" if isinstance(value, list) else "({})").format(", ".join(parts))


def _from_array(value: Any) -> Any:
    """An array of bytes or truth values in the shape of a picture (height x width, or x 1, 3, 4) as a PIL image; else None."""
    numpy = sys.modules.get("numpy")
    if numpy is None or not isinstance(value, numpy.ndarray) or value.dtype not in (numpy.uint8, numpy.bool_):
        return None
    if value.ndim == 3 and value.shape[2] == 1:
        value = value[:, :, 0]
    if value.ndim not in (2, 3) or (value.ndim == 3 and value.shape[2] not in (3, 4)) or min(value.shape[:2]) < _LEAST_SIDE:
        return None
    from PIL import Image

    return Image.fromarray(value.astype(numpy.uint8) * 255 if value.dtype == numpy.bool_ else value)


class Displayed:
    """What code makes with `IPython.display`'s classes: a text, or a picture in a file or in bytes."""

    def __init__(self, data: Any = None, url: Any = None, filename: Any = None, **_: Any) -> None:
        self._data, self._file = data, filename or url

    def show(self) -> None:
        """Shows the picture or writes the text."""
        sys.stdout.write(f"{self._data}\n")


class DisplayedImage(Displayed):
    def show(self) -> None:
        from PIL import Image

        source = self._data if self._file is None else self._file
        show(source if isinstance(source, Image.Image) else Image.open(io.BytesIO(source) if isinstance(source, bytes) else source))
