"""Compiles a cell as a notebook does: indented as a whole, with `await`, `%magics` and `!commands`. Standard library only.

Python itself decides first: only a cell that it refuses is looked at again, so that a cell of plain Python costs nothing more.
"""

from __future__ import annotations

import ast
import contextlib
import re
import types
from collections.abc import Callable, Sequence

_MOST_REPAIRS = 100
_SILENT = ("matplotlib", "config", "load_ext", "reload_ext", "autoreload", "precision", "colors")
_TIMERS = ("time", "timeit", "prun", "memit", "capture")
_TIMER_OPTION = r"-\w+(?:[ ]?\d+)?\s+"
_INSTALLERS = re.compile(r"(?:python\S*\s+-m\s+)?(?:uv\s+)?(?:pip3?|conda|mamba|apt|apt-get)\b")
_INVISIBLE = {0xA0: " ", 0x3000: " ", 0x202F: " ", 0x200B: None, 0x200C: None, 0x200D: None, 0x2060: None, 0xFEFF: None}


class Cell:
    """A cell's statements and the expression that it ends with, each None if there is none, and what was left out of it."""

    __slots__ = ("last", "notes", "statements")

    def __init__(self, statements: types.CodeType | None, last: types.CodeType | None, notes: Sequence[str] = ()) -> None:
        self.statements, self.last, self.notes = statements, last, notes


def compiled(source: str, filename: str, offered: Callable[[], str]) -> Cell:
    """The cell, made to compile if only a notebook would run it. `offered` says which packages there are.

    Raises what `compile` raises for the source as it is, if it is not a notebook's either.
    """
    try:
        return Cell(*_parts(source, filename))
    except SyntaxError as error:
        refused = error
    notes: list[str] = []
    try:
        for _ in range(_MOST_REPAIRS):
            try:
                return Cell(*_parts(source, filename, ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), notes)
            except SyntaxError as error:
                repaired = _repaired(source, error, notes, offered)
                if repaired is None or repaired == source:
                    break
                source = repaired
        raise refused
    finally:
        del refused  # else it would refer to this frame, which refers to it


def _parts(source: str, filename: str, flags: int = 0) -> tuple[types.CodeType | None, types.CodeType | None]:
    if "\n" not in source:
        with contextlib.suppress(SyntaxError):  # most cells of one line are an expression: compiled at once, in half the time
            return None, compile(source, filename, "eval", flags, dont_inherit=True)
    tree = ast.parse(source, filename)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    return (
        compile(tree, filename, "exec", flags, dont_inherit=True) if tree.body else None,
        compile(ast.Expression(last.value), filename, "eval", flags, dont_inherit=True) if isinstance(last, ast.Expr) else None,
    )


def _repaired(source: str, error: SyntaxError, notes: list[str], offered: Callable[[], str]) -> str | None:
    """The source without what `error` is about, with as many lines; None if it is an error in a notebook, too."""
    lines = source.splitlines()
    number = (error.lineno or 0) - 1
    if not 0 <= number < len(lines):
        return None
    line = lines[number]
    stripped = line.strip()
    if stripped.startswith(("%", "!")) or re.fullmatch(r"\??[\w.]+\?{1,2}|\?+[\w.]+", stripped):
        return _without_magic(lines, number, notes, offered)
    if assigned := re.fullmatch(r"(\s*)(\w+)\s*=\s*([!%].*)", line):
        indent, name, magic = assigned.groups()
        notes.append(f"{magic}: {_no_shell(magic, offered)}; {name} is []")
        lines[number] = f"{indent}{name} = []"
        return "\n".join(lines)
    if isinstance(error, IndentationError):
        return _dedented(lines)
    if "non-printable character" in str(error.msg):
        return source.translate(_INVISIBLE)
    return None


def _dedented(lines: list[str]) -> str:
    """Without the indentation of the first line, or, if it has none (it was stripped), without that which all others share."""
    first = next((line for line in lines if line.strip()), "")
    width = len(first) - len(first.lstrip())
    start = 0
    if not width:
        start = lines.index(first) + 1
        widths = [len(line) - len(line.lstrip()) for line in lines[start:] if line.strip()]
        width = min(widths, default=0)
    cut = [line[min(width, len(line) - len(line.lstrip())) :] for line in lines[start:]]
    return "\n".join([*lines[:start], *cut])


def _without_magic(lines: list[str], number: int, notes: list[str], offered: Callable[[], str]) -> str | None:
    line = lines[number]
    indent, magic = line[: len(line) - len(line.lstrip())], line.strip()
    name = (re.match(r"%*(\w*)", magic) or [""])[1]
    instead = "pass"
    if magic.startswith("%%") and name not in _TIMERS:
        lines[:] = [""] * len(lines)
        notes.append(f"{magic}: only Python runs here; the cell is left out")
    elif magic.startswith("%") and name in _TIMERS:
        statement = "" if magic.startswith("%%") else re.sub(rf"%\w+\s+(?:{_TIMER_OPTION})*", "", f"{magic} ").strip()
        instead = statement or "pass"
        notes.append(f"%{name} is left out: its code runs as it is")
    elif magic.startswith("!") or name in ("pip", "conda", "mamba", "sh", "bash", "system"):
        notes.append(f"{magic}: {_no_shell(magic, offered)}")
    elif not magic.startswith("%"):
        instead = f"print(({magic.strip('?')}).__doc__)"
    elif name not in _SILENT:
        notes.append(f"{magic} is not known here and is left out")
    lines[number] = indent + instead
    return "\n".join(lines)


def _no_shell(magic: str, offered: Callable[[], str]) -> str:
    if _INSTALLERS.match(magic.lstrip("!% ")):
        return f"nothing can be installed; {offered()}"
    return "there is no shell, only Python"
