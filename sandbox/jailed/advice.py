"""What an error message of Python does not know: what there is in this session instead. Runs in the jail; standard library only."""

from __future__ import annotations

import errno
import importlib.metadata
import importlib.util
import os
import re
from collections.abc import Iterator, Sequence

_PICTURE = re.compile(r"im(?:g|age)|^im\d*$|pic(?:ture)?s?\b|photo|screenshot|frame", re.IGNORECASE)
_PICTURE_FILE = re.compile(r"\.(?:png|jpe?g|webp|bmp|gif|tiff?)$", re.IGNORECASE)
_IMPORTS = {
    "np": "import numpy as np",
    "plt": "import matplotlib.pyplot as plt",
    "pd": "import pandas as pd",
    "sns": "import seaborn as sns",
    "cv2": "import cv2",
    **{name: f"from PIL import {name}" for name in ("Image", "ImageDraw", "ImageFont", "ImageOps", "ImageEnhance", "ImageFilter")},
}
_MOST_CAUSES = 8
_UNREACHABLE = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


class Advice:
    """Knows the session's pictures and packages. `packages` are names of distributions."""

    def __init__(self, packages: Sequence[str]) -> None:
        self._packages = packages
        self.pictures = 0

    def on(self, error: BaseException) -> str:
        """One line about what to use instead of what `error` says is missing; empty if there is nothing to say."""
        return next((line for cause in _causes(error) if (line := self._on_one(cause))), "")

    def _on_one(self, error: BaseException) -> str:
        if isinstance(error, ModuleNotFoundError):
            missing = (error.name or "").partition(".")[0]
            return f"{missing} cannot be installed; {self.modules()}" if missing and not _importable(missing) else ""
        if isinstance(error, NameError):
            if wanted := _IMPORTS.get(error.name or ""):
                return f"write {wanted} first"
            return self.question() if _PICTURE.search(error.name or "") else ""
        if isinstance(error, FileNotFoundError):
            return self.on_file(error.filename)
        if type(error).__name__ in ("gaierror", "URLError") or (isinstance(error, OSError) and error.errno in _UNREACHABLE):
            return "there is no network"
        return "nobody is there to answer input()" if isinstance(error, EOFError) and "reading a line" in str(error) else ""

    def on_file(self, path: object) -> str:
        """What to use instead of a file that is not there, if it is called as a picture or its directory is missing, too."""
        name = os.fsdecode(path) if isinstance(path, str | bytes | os.PathLike) else ""
        folder = os.path.dirname(name)
        if folder and not os.path.isdir(folder):
            lines = [f"there is no directory {folder}; /work, which is also /mnt/data, is the one to write to"]
            return "; ".join([*lines, *([self.question()] if _PICTURE.search(os.path.basename(name)) else [])])
        return self.question() if _PICTURE_FILE.search(name) or _PICTURE.search(os.path.basename(name)) else ""

    def question(self) -> str:
        """Under which names the question's pictures are there."""
        if not self.pictures:
            return "the question has no pictures"
        if self.pictures == 1:
            return "image_1 is the question's picture: a variable, and a file image_1.png"
        numbers = range(1, self.pictures + 1)
        names = [f"image_{number}" for number in numbers if number <= 3 or number == self.pictures]
        names[3:] = [f"… {name}" for name in names[3:]]
        return f"{', '.join(names)} are the question's pictures: variables, and files image_1.png and so on"

    def modules(self) -> str:
        """Which packages there are, by the names that code imports."""
        return f"there are {', '.join(sorted(_modules(self._packages), key=str.lower))}"


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    for _ in range(_MOST_CAUSES):
        if cause is None:
            return
        yield cause
        cause = cause.__cause__ or cause.__context__


def _importable(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _modules(packages: Sequence[str]) -> set[str]:
    """The modules of the packages; `importlib.metadata.packages_distributions` would read the file lists of all others, too."""
    modules: set[str] = set()
    for distribution in importlib.metadata.distributions():
        if re.sub(r"[-_.]+", "-", distribution.name).lower() in packages:
            files = distribution.read_text("RECORD") or ""
            modules |= {line.partition("/")[0] for line in files.splitlines() if "/__init__.py," in line}
    return {module for module in modules if module.isidentifier() and not module.startswith("_") and module != "mpl_toolkits"}
