"""The pictures of a row: which of its columns hold them, and in which order."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from envs.datasets.columns import NAMES, absent, number_of, parsed
from envs.errors import PictureError, RowError
from envs.pictures import Source, named

_LIST = re.compile(r"[^\n,;|]+\.\w{3,4}(?:\s*[,;|\n]\s*[^\n,;|]+\.\w{3,4})+")


def row_pictures(row: Mapping[str, Any], folder: Path) -> tuple[Source, ...]:
    """The pictures that the columns of a row name, paths relative to `folder`: those of `images` or of a column that stands for it,
    then those of `image_1`, `image_2`, … by number. Raises RowError if one is missing, or if it is unclear which are meant.
    """
    primary = next((name for name in NAMES["images"] if name in row), None)
    numbered = sorted((number, name) for name in row if (number := number_of(name)) is not None)
    own = [] if primary is None else [named(value, folder) for value in listed(row[primary])]
    for name in (name for name in NAMES["images"] if name in row and name != primary):
        if own and _is_other(row[name], own, folder):
            raise RowError(f"there are other pictures in {primary} than in {name}: write columns={{{name}: null}} to leave it out")
    rest = [named(value, folder) for _, name in numbered for value in listed(row[name])]
    if own and rest and numbered[0][0] < 2 and primary is not None:
        if own in (rest, rest[:1]):
            return tuple(rest)
        raise RowError(
            f"there are other pictures in {primary} than in {numbered[0][1]}: write columns={{{primary}: null}} to leave it out"
        )
    return (*own, *rest)


def _is_other(value: Any, own: list[Source], folder: Path) -> bool:
    """Whether a column holds a picture that is not among `own`: a file and bytes may be one picture, a path a mere name."""
    try:
        others = [named(item, folder) for item in listed(value)]
    except PictureError:
        return False
    return any(other not in own and any(type(other) is type(one) for one in own) for other in others)


def listed(value: Any) -> list[Any]:
    """The items of a column of pictures: a list, also in JSON's or Python's notation, several paths in one text, or one picture."""
    if isinstance(value, str):
        value = _literal(value.strip())
    if isinstance(value, Mapping):
        columns = {name: part for name, part in value.items() if isinstance(part, list)}
        if columns:  # a list of mappings as a mapping of lists
            count = max(map(len, columns.values()))
            return [{name: part[place] for name, part in columns.items() if place < len(part)} for place in range(count)]
        return [value]
    if isinstance(value, list | tuple):
        if len(value) > 8 and all(isinstance(byte, int) for byte in value):
            return [value]
        if any(item is None or (isinstance(item, float) and absent(item)) for item in value):
            raise PictureError(f"there is no image {None!r} in a list of images; write bytes, or a path relative to the file")
        return list(value)
    return [value]


def _literal(text: str) -> Any:
    if text.startswith(("[", "{")):
        found = parsed(text)
        if not isinstance(found, str):
            return found
        try:
            return ast.literal_eval(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
            raise PictureError(f"the images are not a list of strings ({error})") from None
    if len(text) < 4000 and not text.startswith(("data:", "http")) and _LIST.fullmatch(text):
        return [part.strip() for part in re.split(r"[,;|\n]", text)]
    return text
